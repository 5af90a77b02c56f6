// The page: a model drawn by Spark on three.js from the cameras that came with it. Everything is in the file itself.
// `fail` and `loading` are those of template.html: the one place that says what is wrong, until the model is shown.

import { Color, Matrix4, PerspectiveCamera, Quaternion, Scene, Vector3, WebGLRenderer } from "three";
import { SparkRenderer } from "@sparkjsdev/spark";
import { Flight } from "./flight.js";
import { setProjection } from "./lens.js";
import { drawFirst, Reader } from "./splats.js";

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
  const reader = new Reader(about.format, about.units);
  page.add(await reader.next(await partOfModel(0)));
  page.begin();
  try {
    for (let i = 1; i < about.parts; i++) page.add(await reader.next(await partOfModel(i)));
  } catch (error) {
    page.remark = `, the others can't be read (${error.message})`; // what is there stays
  }
  reader.close();
  page.end();
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

/** The bytes of a part of the model, as soon as the browser has them all. */
async function partOfModel(index) {
  const name = index ? `model-${index}` : "model";
  for (let isOver = false; !byId(name)?.nextElementSibling; await new Promise((resolve) => setTimeout(resolve, 20))) {
    if (isOver) throw new Error("the end of the file is missing");
    isOver = document.readyState !== "loading";
  }
  const element = byId(name);
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
    this.levels = [];
    this.remark = ", loading";
    this.isLoading = true;
    this.lens = about.cameras[0];
    this.asked = performance.now();
    this.flight = new Flight(camera, renderer.domElement, new Vector3(...about.up), () => this.#takenOver());
    this.#setBackground(about.background);
    this.#listen();
    this.#jump(0, false);
  }

  /** Start to draw, now that the model or its first level is there. */
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
      } else if (++this.idle >= STILL_FRAMES && now - this.asked > STILL_AFTER && !this.#isSorting && !this.isLoading) this.#state("still");
    });
    setTimeout(() => document.body.classList.add("calm"), HINT_MS);
  }

  /** Add a model, or the next level of a nested one, whose first splats alone are a good model; the slider goes that far. */
  add({ mesh, total }) {
    const slider = byId("share"), isAll = slider.value === slider.max;
    this.scene.add(mesh);
    this.levels.push({ mesh, num: mesh.numSplats });
    this.total = total;
    slider.max = Math.floor((100 * this.#numRead) / total);
    if (isAll) slider.value = slider.max;
    byId("prefix").hidden = !this.about.nested;
    this.#drawFirst();
  }

  /** All levels are there, or no more will come. */
  end() {
    this.isLoading = false;
    this.#drawFirst();
  }

  get #numRead() {
    return this.levels.reduce((sum, { num }) => sum + num, 0);
  }

  /** Draw the splats up to the slider. */
  #drawFirst() {
    const slider = byId("share"), read = this.#numRead;
    let left = slider.value === slider.max ? read : Math.min(read, Math.ceil((this.total * slider.value) / 100));
    const said = read < this.total ? `of ${this.total.toLocaleString("en")} Gaussians${this.remark}` : "Gaussians";
    byId("number").textContent = `${left.toLocaleString("en")} ${said}`;
    for (const { mesh, num } of this.levels) {
      drawFirst(mesh, Math.min(left, num));
      left -= Math.min(left, num);
    }
    this.ask();
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
    byId("share").oninput = () => this.#drawFirst();
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
