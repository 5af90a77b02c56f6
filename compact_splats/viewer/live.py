"""The live page: a server of viser's, and a session for every browser that looks.

Whoever owns the model calls ``serve`` again and again; all that reads the model happens in there, and without a browser
that costs nothing. Viser is imported here and in what this module imports, and nowhere else.
"""

from __future__ import annotations

import contextlib
import io
import warnings

from viser import ClientHandle, ViserServer

from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.utils.errors import InputError
from compact_splats.viewer.ports import check_port
from compact_splats.viewer.session import Look, Session

# A browser may leave while it is being served; there is nothing that anybody could do about it.
warnings.filterwarnings("ignore", message="Queued a .* on a closed connection", category=UserWarning)


class LivePage:
    """A page that shows a model to any number of browsers.

    Args:
        title: of the page.
        look: how it is shown.
        max_degree: of the model's spherical harmonics.
        host: address to listen on.
        port: to listen on; 0: any free one.

    Raises:
        InputError: the port can't be had.
    """

    def __init__(self, title: str, look: Look, max_degree: int, host: str, port: int) -> None:
        check_port(host, port)
        self.is_paused = False
        self._look, self._max_degree = look, max_degree
        self._sessions: dict[int, Session] = {}
        with contextlib.redirect_stdout(io.StringIO()):  # viser's own banner, which says less than the scripts do
            self._server = ViserServer(host, port, label=title, verbose=False)
        self.port = self._server.get_port()
        if port not in (0, self.port):  # viser takes the next one, and another program was quicker than we
            self.close()
            raise InputError(f"port {port}", "a free one", "another program on it", f"give port {self.port}")
        self._server.gui.configure_theme(
            control_width="large", dark_mode=True, show_logo=False, show_share_button=False
        )
        self._server.scene.set_up_direction(look.around.up)
        self._server.on_client_connect(self._add)
        self._server.on_client_disconnect(self._remove)

    def _add(self, client: ClientHandle) -> None:
        self._sessions[client.client_id] = Session(client, self._look, self._max_degree, self._toggle)

    def _remove(self, client: ClientHandle) -> None:
        self._sessions.pop(client.client_id, None)
        if not self._sessions:
            self.is_paused = False  # nobody is left who could go on

    def _toggle(self) -> None:
        self.is_paused = not self.is_paused

    @property
    def has_viewers(self) -> bool:
        """Whether a browser looks."""
        return bool(self._sessions)

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Of the browsers that look."""
        return tuple(self._sessions.values())

    def serve(self, model: GaussianModel, step: int = 0, about: str = "") -> bool:
        """Send browsers what they lack.

        Args:
            model: the Gaussians.
            step: a number that changes whenever they do.
            about: what to say of the model, besides how many Gaussians are drawn.

        Returns:
            Whether anything was sent.
        """
        was_sent = False
        for session in self.sessions:
            was_sent |= session.refresh(model, step)
            session.panel.say(_status(session, model, about), self.is_paused)
        return was_sent

    def close(self) -> None:
        """Stop the server; browsers say that the connection is lost."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._server.stop()


def _status(session: Session, model: GaussianModel, about: str) -> str:
    num, drawn = model.num_gaussians, session.num_splats
    count = f"{num:,} Gaussians" if drawn == num else f"{drawn:,} of {num:,} Gaussians move with the camera"
    if drawn < num and session.panel.is_exact:
        count += "; at rest, all that are not hidden are drawn"
    return f"{about}{count}"
