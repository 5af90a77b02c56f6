// How the viewer moves: orbit by dragging, pan, dolly, fly by keys, and smooth ways from camera to camera.
// A camera's roll is kept: nothing snaps upright when a training camera that was held askew is left.
// Z and X roll the camera, and the axis of orbits with it, which is up.

import { Quaternion, Vector3 } from "three";

const TURN = 4; // radians for a drag across the page's smaller side
const FRICTION = 8; // 1/s: what is left of a fling after a second is exp(-8)
const MAX_SPIN = 4; // radians/s of a fling
const HELD = 60; // ms without movement, after which letting go is no fling
const MIN_POLE_ANGLE = 0.05; // radians between the line of sight and up, or down
const FLY_SPEED = 0.6; // times the distance to the centre, per second
const ROLL_SPEED = 1; // radians/s
const TRAVEL_SECONDS = 0.7;
const KEYS = { KeyW: [0, 0, -1], KeyS: [0, 0, 1], KeyA: [-1, 0, 0], KeyD: [1, 0, 0], KeyQ: [0, -1, 0], KeyE: [0, 1, 0] };
const ROLLS = { KeyZ: 1, KeyX: -1 };
const AXES = { "-y": [0, -1, 0], z: [0, 0, 1], y: [0, 1, 0], "-z": [0, 0, -1], x: [1, 0, 0], "-x": [-1, 0, 0] };

/** Moves a camera as the user drags, pinches, scrolls and presses keys on an element. */
export class Flight {
  /**
   * @param {import("three").Camera} camera
   * @param {HTMLElement} element that gets the pointer
   * @param {Vector3} up direction in world coordinates, of length 1; later changes are made to this vector
   * @param {() => void} onStart called when the user takes over
   */
  constructor(camera, element, up, onStart) {
    Object.assign(this, { camera, element, up, onStart });
    this.distance = 1; // to the centre of orbits, along the line of sight
    this.spin = { x: 0, y: 0 }; // radians/s
    this.pointers = new Map();
    this.pressed = new Set();
    this.travel = null;
    this.#listen();
  }

  /** Go to a pose; at once, or on a smooth way. */
  goTo(position, quaternion, distance, isSmooth) {
    this.spin = { x: 0, y: 0 };
    const end = { position: position.clone(), quaternion: quaternion.clone(), distance };
    const start = {
      position: this.camera.position.clone(), quaternion: this.camera.quaternion.clone(), distance: this.distance,
    };
    this.travel = { start, end, seconds: isSmooth ? 0 : TRAVEL_SECONDS };
  }

  /**
   * Make another axis the up direction, and turn the camera with it around the centre.
   * @param {boolean} isSmooth on a smooth way instead of at once
   * @returns {string} the axis: "-y", then "z" and so on
   */
  nextUp(isSmooth) {
    if (this.travel) this.#travelOn(TRAVEL_SECONDS);
    const names = Object.keys(AXES), axis = (name) => new Vector3(...AXES[name]);
    const current = names.findIndex((name) => axis(name).dot(this.up) > 0.9);
    const name = names[(current + 1) % names.length];
    const turn = new Quaternion().setFromUnitVectors(this.up, axis(name));
    const centre = this.camera.position.clone().addScaledVector(this.#sight, this.distance);
    const position = this.camera.position.clone().sub(centre).applyQuaternion(turn).add(centre);
    this.up.copy(axis(name));
    this.goTo(position, this.camera.quaternion.clone().premultiply(turn), this.distance, isSmooth);
    return name;
  }

  /**
   * Move on by a moment.
   * @param {number} seconds since the last call
   * @returns {boolean} whether anything has moved
   */
  update(seconds) {
    if (this.travel) return this.#travelOn(seconds);
    let moved = false;
    if (!this.pointers.size && Math.hypot(this.spin.x, this.spin.y) > 0.01) {
      this.#orbit(this.spin.x * seconds, this.spin.y * seconds);
      const left = Math.exp(-FRICTION * seconds);
      this.spin = { x: this.spin.x * left, y: this.spin.y * left };
      moved = true;
    }
    const heading = new Vector3();
    for (const key of this.pressed) if (KEYS[key]) heading.add(new Vector3(...KEYS[key]));
    if (heading.lengthSq()) {
      const speed = FLY_SPEED * this.distance * (this.isFast ? 4 : 1);
      this.camera.position.addScaledVector(heading.applyQuaternion(this.camera.quaternion), speed * seconds);
      moved = true;
    }
    let roll = 0;
    for (const key of this.pressed) roll += ROLLS[key] ?? 0;
    if (roll) {
      const turn = new Quaternion().setFromAxisAngle(this.#sight, roll * ROLL_SPEED * seconds);
      this.camera.quaternion.premultiply(turn).normalize();
      this.up.applyQuaternion(turn).normalize();
      moved = true;
    }
    const moves = moved || this.hasMoved;
    this.hasMoved = false;
    return moves;
  }

  #travelOn(seconds) {
    const { start, end } = this.travel;
    this.travel.seconds += seconds;
    const share = Math.min(1, this.travel.seconds / TRAVEL_SECONDS);
    const eased = share * share * (3 - 2 * share);
    this.camera.position.lerpVectors(start.position, end.position, eased);
    this.camera.quaternion.slerpQuaternions(start.quaternion, end.quaternion, eased);
    this.distance = start.distance + (end.distance - start.distance) * eased;
    if (share === 1) {
      this.camera.position.copy(end.position);
      this.camera.quaternion.copy(end.quaternion);
      this.travel = null;
    }
    return true;
  }

  get #sight() {
    return new Vector3(0, 0, -1).applyQuaternion(this.camera.quaternion);
  }

  /** Turn the camera and its place around the centre; yaw is about up, pitch about the camera's own horizontal. */
  #orbit(yaw, pitch) {
    const centre = this.camera.position.clone().addScaledVector(this.#sight, this.distance);
    const angle = this.#sight.angleTo(this.up);
    const allowed = Math.min(Math.max(angle - pitch, MIN_POLE_ANGLE), Math.PI - MIN_POLE_ANGLE);
    const right = new Vector3().crossVectors(this.#sight, this.up);
    const turn = new Quaternion().setFromAxisAngle(this.up, yaw);
    if (right.lengthSq() > 1e-8)
      turn.multiply(new Quaternion().setFromAxisAngle(right.normalize(), angle - allowed));
    this.camera.quaternion.premultiply(turn).normalize();
    this.camera.position.sub(centre).applyQuaternion(turn).add(centre);
    this.hasMoved = true;
  }

  /** Move the camera and the centre across the picture, by px; what lies at the centre follows the pointer. */
  #pan(dx, dy) {
    const unit = this.distance / (0.5 * this.element.clientHeight * this.camera.projectionMatrix.elements[5]);
    const shift = new Vector3(-dx * unit, dy * unit, 0).applyQuaternion(this.camera.quaternion);
    this.camera.position.add(shift);
    this.hasMoved = true;
  }

  /** Come nearer to the centre (factor below 1) or go away from it. */
  #dolly(factor) {
    this.camera.position.addScaledVector(this.#sight, this.distance * (1 - factor));
    this.distance *= factor;
    this.hasMoved = true;
  }

  #listen() {
    const on = (target, names, listener, options) => {
      for (const name of names.split(" ")) target.addEventListener(name, listener, options);
    };
    on(this.element, "pointerdown", (event) => this.#press(event));
    on(this.element, "pointermove", (event) => this.#drag(event));
    on(this.element, "pointerup pointercancel", (event) => this.#release(event));
    on(this.element, "contextmenu", (event) => event.preventDefault());
    on(this.element, "wheel", (event) => this.#scroll(event), { passive: false });
    on(window, "keydown", (event) => this.#key(event, true));
    on(window, "keyup", (event) => this.#key(event, false));
    on(window, "blur", () => this.pressed.clear());
  }

  #takeOver() {
    this.travel = null;
    this.onStart();
  }

  #press(event) {
    this.element.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, button: event.button, time: event.timeStamp });
    this.spin = { x: 0, y: 0 };
    this.#takeOver();
  }

  #release(event) {
    const last = this.pointers.get(event.pointerId);
    if (last && event.timeStamp - last.time > HELD) this.spin = { x: 0, y: 0 };
    this.pointers.delete(event.pointerId);
  }

  #drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = { ...before, x: event.clientX, y: event.clientY, time: event.timeStamp };
    const [dx, dy] = [now.x - before.x, now.y - before.y];
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, pointer]) => pointer);
    this.pointers.set(event.pointerId, now);
    if (others.length) {
      const span = (pointer) => Math.max(1, Math.hypot(pointer.x - others[0].x, pointer.y - others[0].y));
      this.#dolly(span(before) / span(now));
      this.#pan(dx / 2, dy / 2);
    } else if (before.button || event.shiftKey) {
      this.#pan(dx, dy);
    } else {
      const unit = -TURN / Math.min(this.element.clientWidth, this.element.clientHeight);
      const seconds = Math.max(0.008, (now.time - before.time) / 1000);
      const limited = (speed) => Math.max(-MAX_SPIN, Math.min(MAX_SPIN, speed));
      this.spin = { x: limited((dx * unit) / seconds), y: limited((dy * unit) / seconds) };
      this.#orbit(dx * unit, dy * unit);
    }
  }

  #scroll(event) {
    event.preventDefault();
    const lines = event.deltaMode === 0 ? event.deltaY / 100 : event.deltaMode === 1 ? event.deltaY / 3 : event.deltaY;
    this.#dolly(Math.exp(0.15 * Math.max(-5, Math.min(5, lines))));
    this.#takeOver();
  }

  #key(event, isDown) {
    this.isFast = event.shiftKey;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (!isDown) this.pressed.delete(event.code);
    else if (KEYS[event.code] || ROLLS[event.code]) {
      this.pressed.add(event.code);
      this.#takeOver();
    }
  }
}
