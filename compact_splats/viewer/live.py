"""The live page: a viser server, and a session per browser.

The thread that owns the model calls ``serve`` repeatedly. The model is read only there, so it is never read during a
training step. Only this module and those that it imports import viser.
"""

from __future__ import annotations

import contextlib
import io
import warnings

from viser import ClientHandle, ViserServer

from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.utils.errors import InputError
from compact_splats.viewer.ports import check_port
from compact_splats.viewer.session import PageConfig, Session

# A browser may disconnect while it is served.
warnings.filterwarnings("ignore", message="Queued a .* on a closed connection", category=UserWarning)


class LivePage:
    """A page that shows a model to any number of browsers.

    Args:
        title: of the page.
        config: shared by all browsers.
        max_degree: of the model's spherical harmonics.
        host: address to listen on.
        port: to listen on; 0: any free one.

    Attributes:
        is_paused: a user has paused the training.

    Raises:
        InputError: the port can't be used.
    """

    def __init__(self, title: str, config: PageConfig, max_degree: int, host: str, port: int) -> None:
        check_port(host, port)
        self.is_paused = False
        self._config, self._max_degree = config, max_degree
        self._sessions: dict[int, Session] = {}
        with contextlib.redirect_stdout(io.StringIO()):  # hides viser's banner; the scripts print the address
            self._server = ViserServer(host, port, label=title, verbose=False)
        self.port = self._server.get_port()
        if port not in (0, self.port):  # taken since check_port, so viser uses the next one
            self.close()
            raise InputError(f"port {port} is in use by another program; use port {self.port}")
        self._server.gui.configure_theme(
            control_width="large", dark_mode=True, show_logo=False, show_share_button=False
        )
        self._server.scene.set_up_direction(config.views.up)
        self._server.on_client_connect(self._add)
        self._server.on_client_disconnect(self._remove)

    def _add(self, client: ClientHandle) -> None:
        self._sessions[client.client_id] = Session(client, self._config, self._max_degree, self._toggle)

    def _remove(self, client: ClientHandle) -> None:
        self._sessions.pop(client.client_id, None)
        if not self._sessions:
            self.is_paused = False  # no browser is left that could resume

    def _toggle(self) -> None:
        self.is_paused = not self.is_paused

    @property
    def has_viewers(self) -> bool:
        """Whether a browser is connected."""
        return bool(self._sessions)

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Of the connected browsers."""
        return tuple(self._sessions.values())

    def serve(self, model: GaussianModel, step: int = 0, about: str = "") -> bool:
        """Update the browsers.

        Args:
            model: the Gaussians.
            step: a number that changes when the model does.
            about: shown before the number of Gaussians.

        Returns:
            Whether anything was sent.
        """
        was_sent = False
        for session in self.sessions:
            was_sent |= session.refresh(model, step)
            session.panel.say(_status(session, model, about), self.is_paused)
        return was_sent

    def close(self) -> None:
        """Stop the server."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._server.stop()


def _status(session: Session, model: GaussianModel, about: str) -> str:
    num, drawn = model.num_gaussians, session.num_splats
    count = f"{num:,} Gaussians" if drawn == num else f"{drawn:,} of {num:,} Gaussians while the camera moves"
    if drawn < num and session.panel.is_exact:
        count += "; all at rest, unless hidden"
    return f"{about}{count}"
