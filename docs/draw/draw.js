// Draw a digit, and the demo's network says which it is: LiteRT.js runs it in this page.

const VERSION = "2.5.3"; // of LiteRT.js; docs/litert.py takes it, too
const ELSEWHERE = `https://cdn.jsdelivr.net/npm/@litertjs/core@${VERSION}/`;
const SQUARES = 8; // along each side of the network's images
const POINTS = 4; // of the drawing along each side of a square, as in the data that it learned from
const CLASSES = 10;

const here = (path) => new URL(path, import.meta.url).href;
let loading;

/** The runtime and the model, from beside this file or, for want of the first, from a CDN. */
async function load() {
  let litert;
  let wasm = here("litert/wasm/");
  try {
    litert = await import(here("litert/index.js"));
  } catch {
    litert = await import(`${ELSEWHERE}+esm`);
    wasm = `${ELSEWHERE}wasm/`;
  }
  await litert.loadLiteRt(wasm);
  const options = { accelerator: "wasm" };
  return { litert, model: await litert.loadAndCompile(here("digits.tflite"), options) };
}

/** Probabilities of the ten digits for an image of 8x8 values from 0 to 1. */
export async function classify(image) {
  loading ??= load();
  const { litert, model } = await loading;
  const input = new litert.Tensor(image, [1, SQUARES, SQUARES, 1]);
  const [output] = Object.values(await model.run(input));
  const probabilities = Float32Array.from(await output.data());
  input.delete();
  output.delete();
  return probabilities;
}

/** How much of each square of the box around the drawing is covered; null if there is none. */
export function squares(canvas) {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const inked = (x, y) =>
    x >= 0 && x < width && y >= 0 && y < height && data[4 * (y * width + x) + 3] > 127;
  let [left, right, top, bottom] = [width, -1, height, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!inked(x, y)) continue;
      [left, right] = [Math.min(left, x), Math.max(right, x)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
    }
  }
  if (right < 0) return null;
  const side = Math.max(right - left, bottom - top) + 1;
  const step = side / (SQUARES * POINTS);
  const place = (first, last, n) =>
    Math.floor((first + last + 1 - side) / 2 + (n + 0.5) * step);
  const image = new Float32Array(SQUARES * SQUARES);
  for (let y = 0; y < SQUARES * POINTS; y++) {
    for (let x = 0; x < SQUARES * POINTS; x++) {
      if (!inked(place(left, right, x), place(top, bottom, y))) continue;
      const square = Math.floor(y / POINTS) * SQUARES + Math.floor(x / POINTS);
      image[square] += 1 / POINTS ** 2;
    }
  }
  return image;
}

/** Makes a canvas a board to draw on; `show` gets the image and its probabilities. */
export function board(canvas, clear, show) {
  const ink = canvas.getContext("2d", { willReadFrequently: true });
  Object.assign(ink, { lineWidth: canvas.width / 9, lineCap: "round", lineJoin: "round" });
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) * canvas.width) / box.width;
    return [x, ((event.clientY - box.top) * canvas.height) / box.height];
  };
  let drawing = false;
  canvas.addEventListener("pointerdown", (event) => {
    drawing = true;
    ink.strokeStyle = "rgb(60, 60, 60)";
    ink.beginPath();
    ink.moveTo(...at(event));
    ink.lineTo(...at(event));
    ink.stroke();
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drawing) return;
    ink.lineTo(...at(event));
    ink.stroke();
  });
  window.addEventListener("pointerup", async () => {
    if (!drawing) return;
    drawing = false;
    const image = squares(canvas);
    if (image) show(image, classify(image));
  });
  clear.addEventListener("click", () => {
    ink.clearRect(0, 0, canvas.width, canvas.height);
    show(null, null);
  });
}

/** What the page does with its elements. */
export function start(page) {
  const answer = page.querySelector("#answer");
  const small = page.querySelector("#seen").getContext("2d");
  const meters = [...page.querySelectorAll("meter")];
  board(page.querySelector("#board"), page.querySelector("#clear"), async (image, found) => {
    small.clearRect(0, 0, SQUARES, SQUARES);
    image?.forEach((value, n) => {
      small.fillStyle = `rgba(60, 60, 60, ${value})`;
      small.fillRect(n % SQUARES, Math.floor(n / SQUARES), 1, 1);
    });
    answer.textContent = found ? "…" : "Draw a digit.";
    let probabilities = new Float32Array(CLASSES);
    try {
      if (found) {
        probabilities = await found;
        const best = probabilities.indexOf(Math.max(...probabilities));
        answer.textContent = `${best} (${Math.round(100 * probabilities[best])}%)`;
      }
    } catch (error) {
      answer.textContent = `It cannot run here: ${error.message}`;
    }
    meters.forEach((meter, n) => (meter.value = probabilities[n]));
  });
}
