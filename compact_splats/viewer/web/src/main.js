// The page: a model drawn by Spark on three.js from the cameras that came with it. Everything is in the file itself.
// `fail` and `loading` are those of template.html: the one place that says what is wrong, until the model is shown.

import { Color, Matrix4, PerspectiveCamera, Quaternion, Scene, Vector3, WebGLRenderer } from "three";
import { SparkRenderer } from "@sparkjsdev/spark";
import { Flight } from "./flight.js";
import { setProjection } from "./lens.js";
import { drawFirst, meshOf } from "./splats.js";

const FAR = 1e5; // times the nearest distance
const STILL_AFTER = 250; // ms without anything new to draw,
const STILL_FRAMES = 5; // and as many frames, which take long on a slow machine
const HINT_MS = 9000;
const byId = (id) => document.getElementById(id);

async function main() {
  const about = JSON.parse(byId("about").textContent);
  const renderer = newRenderer(byId("view"));
  if (!renderer)
    return fail("This browser offers no WebGL 2, which the page draws with. Switch on hardware acceleration in its settings, or use another browser.");
  const camera = new PerspectiveCamera();
  const scene = new Scene();
  const spark = newSpark(renderer, about, () => page.ask());
  const page = new Page(about, renderer, camera, scene, spark);
  scene.add(spark);
  const mesh = await meshOf(modelBytes(), about.format, about.units);
  scene.add(mesh);
  if (about.nested) page.offerPrefixes(mesh);
  page.begin();
}

function newRenderer(canvas) {
  try {
    const renderer = new WebGLRenderer({ canvas, antialias: false, powerPreference: "high-performance" });
    renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    return renderer;
  } catch {
    return null;
  }
}

/** Spark, set to draw what the trainer draws: the same blur, the same ends of a Gaussian, the same order. */
function newSpark(renderer, about, onDirty) {
  return new SparkRenderer({
    renderer, onDirty,
    accumExtSplats: true, // float32 centres
    sortRadial: false,
    maxStdDev: Math.sqrt(2 * Math.log(255 * 0.99)),
    minAlpha: 1 / 255,
    maxPixelRadius: 4096,
    clipXY: 2, // Gaussians whose centres lie beyond the edges reach into the picture
    preBlurAmount: about.antialiased ? 0 : about.blur,
    blurAmount: about.antialiased ? about.blur : 0,
    enableLod: false,
  });
}

function modelBytes() {
  const element = byId("model");
  const text = atob(element.textContent.trim());
  element.remove();
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function isMotionWanted() {
  return !matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** What is on the page: the camera that is shown, the bar, and when to draw. */
class Page {
  constructor(about, renderer, camera, scene, spark) {
    Object.assign(this, { about, renderer, camera, scene, spark });
    this.index = 0;
    this.lens = about.cameras[0];
    this.asked = performance.now();
    this.flight = new Flight(camera, renderer.domElement, new Vector3(...about.up), () => this.#takenOver());
    this.#setBackground(about.background);
    this.#listen();
    this.#jump(0, false);
  }

  /** Start to draw, now that the model is there. */
  begin() {
    this.#resize();
    this.#state("moving");
    let before = performance.now();
    this.renderer.setAnimationLoop((now) => {
      const seconds = Math.min(0.1, (now - before) / 1000);
      before = now;
      if (this.flight.update(seconds)) this.ask();
      if (this.wanted) {
        this.wanted = false;
        this.#project();
        this.renderer.render(this.scene, this.camera);
        this.idle = 0;
      } else if (++this.idle >= STILL_FRAMES && now - this.asked > STILL_AFTER && !this.#isSorting) this.#state("still");
    });
    setTimeout(() => document.body.classList.add("calm"), HINT_MS);
  }

  /** Show the slider of a nested model, whose first splats alone are a good model. */
  offerPrefixes(mesh) {
    const slider = byId("share"), whole = mesh.numSplats;
    slider.oninput = () => {
      const count = Math.ceil((whole * slider.value) / 100);
      drawFirst(mesh, count);
      byId("number").textContent = `${count.toLocaleString("en")} Gaussians`;
      this.ask();
    };
    slider.oninput();
    byId("prefix").hidden = false;
  }

  /** Ask for a new picture. */
  ask() {
    this.wanted = true;
    this.asked = performance.now();
    if (document.body.dataset.state === "still") this.#state("moving");
  }

  get #isSorting() {
    return !this.spark.lastSortTime || this.spark.sorting || this.spark.sortDirty;
  }

  #state(name) {
    if (name === "still") loading.abort();
    if (![name, "failed"].includes(document.body.dataset.state)) document.body.dataset.state = name;
  }

  #project() {
    const { clientWidth, clientHeight } = this.renderer.domElement;
    setProjection(this.camera, this.lens, clientWidth, clientHeight, this.about.near, this.about.near * FAR);
  }

  #resize() {
    this.renderer.setSize(innerWidth, innerHeight, false);
    this.ask();
  }

  /** Go to a camera of the list; the lens is its lens from then on. */
  #jump(index, isSmooth = isMotionWanted()) {
    const count = this.about.cameras.length;
    this.index = (index + count) % count;
    this.lens = this.about.cameras[this.index];
    const position = new Vector3(), quaternion = new Quaternion(), size = new Vector3();
    new Matrix4().set(...this.lens.pose).decompose(position, quaternion, size);
    const sight = new Vector3(0, 0, -1).applyQuaternion(quaternion);
    const ahead = new Vector3(...this.about.centre).sub(position).dot(sight);
    const distance = Math.max(ahead, 0.1 * this.about.extent);
    this.flight.up.set(...this.about.up);
    this.flight.goTo(position, quaternion, distance, isSmooth);
    byId("camera").textContent = `${this.lens.name}  ${this.index + 1}/${count}`;
    document.body.dataset.camera = String(this.index);
    this.ask();
  }

  #takenOver() {
    document.body.classList.add("calm");
    this.ask();
  }

  #setBackground(hex) {
    document.body.style.background = hex;
    byId("background").value = hex;
    const color = new Color(hex);
    this.scene.background = color;
    document.body.classList.toggle("bright", 0.2 * color.r + 0.7 * color.g + 0.1 * color.b > 0.3);
    this.ask();
  }

  #listen() {
    addEventListener("resize", () => this.#resize());
    byId("previous").onclick = () => this.#jump(this.index - 1);
    byId("next").onclick = () => this.#jump(this.index + 1);
    byId("camera").onclick = () => this.#jump(this.index);
    byId("background").oninput = (event) => this.#setBackground(event.target.value);
    const button = byId("fullscreen");
    button.hidden = !document.fullscreenEnabled;
    button.onclick = () =>
      document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen();
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target === byId("share")) return;
      const step = { ArrowLeft: -1, ArrowRight: 1, KeyR: 0 }[event.code];
      if (step !== undefined) this.#jump(this.index + step);
      if (event.code === "KeyU") {
        byId("camera").textContent = `up: ${this.flight.nextUp(isMotionWanted())}`;
        this.ask();
      }
    });
    this.renderer.domElement.addEventListener("webglcontextlost", () => {
      this.renderer.setAnimationLoop(null);
      fail("The browser has taken the graphics memory of this page away. Load the page again; if that does not help, close other tabs and programs.");
    });
  }
}

main().catch((error) => fail(`The model in this page can't be shown (${error.message}). Copy or download the file again.`));
