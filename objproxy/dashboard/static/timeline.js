// What each worker of a pool did in the last minute: one lane a worker, drawn on a canvas, moving with the clock.

// The window grows with the pool, from the first number to the second.
const MIN_WINDOW_SECONDS = 20;
const WINDOW_SECONDS = 60;
const LABEL_WIDTH = 34;
const AXIS_HEIGHT = 20;
const N_COLOURS = 8;

// What has happened is told a little later; the picture lags by this, so that nothing appears in the middle of a lane.
const LAG_SECONDS = 0.5;

const KINDS = new Map([["start_up", "start"], ["init", "constructor"], ["exit", "end"], ["death", "death"]]);

export class Timeline {
  constructor(canvas, tip) {
    this.canvas = canvas;
    this.tip = tip;
    this.context = canvas.getContext("2d");
    this.lanes = new Map(); // worker -> spans, in the order of their beginnings
    this.methods = new Map(); // method -> number of its colour
    this.running = []; // [worker, method, seconds]
    this.workers = [];
    this.offset = null; // seconds of the pool minus seconds of this page
    this.isOver = false;
    canvas.addEventListener("pointermove", (event) => this.showTip(event));
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  }

  colourOf(method) {
    if (!this.methods.has(method)) this.methods.set(method, this.methods.size % N_COLOURS);
    return this.methods.get(method);
  }

  take(pool) {
    for (const [worker, kind, method, began, seconds, nItems, busy] of pool.spans) {
      if (!this.lanes.has(worker)) this.lanes.set(worker, []);
      if (kind === "call" || kind === "death") this.colourOf(String(method));
      this.lanes.get(worker).push({ kind, method: String(method), began, seconds, nItems, busy });
    }
    this.workers = pool.workers.map((worker) => worker.id);
    this.running = pool.workers.filter((worker) => worker.state === "busy" && worker.method)
      .map((worker) => ({ worker: worker.id, method: String(worker.method), began: pool.now - worker.running }));
    this.running.forEach((span) => this.colourOf(span.method));
    // The clocks differ by a constant; what varies is how long a picture was under way.
    const offset = pool.now - performance.now() / 1000;
    const isJump = this.offset === null || Math.abs(offset - this.offset) > 2;
    this.offset = isJump ? offset : this.offset + 0.1 * (offset - this.offset);
    this.isOver = pool.ended !== null;
    this.end = pool.now;
    for (const lane of this.lanes.values()) {
      const n_old = lane.findIndex((span) => span.began + span.seconds > pool.now - WINDOW_SECONDS - 5);
      if (n_old > 0) lane.splice(0, n_old);
    }
  }

  now() {
    return this.isOver ? this.end : performance.now() / 1000 + this.offset - LAG_SECONDS;
  }

  get window() {
    return Math.min(WINDOW_SECONDS, Math.max(MIN_WINDOW_SECONDS, this.now()));
  }

  get laneHeight() {
    const n = this.workers.length;
    return n <= 8 ? 22 : n <= 16 ? 16 : n <= 40 ? 10 : 5;
  }

  draw(colours) {
    const width = this.canvas.clientWidth;
    const height = AXIS_HEIGHT + Math.max(1, this.workers.length) * (this.laneHeight + 3);
    const scale = globalThis.devicePixelRatio || 1;
    if (!width || this.offset === null) return;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
      this.canvas.style.height = `${height}px`;
    }
    const pen = this.context;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const now = this.now();
    const { window } = this;
    const toX = (seconds) => LABEL_WIDTH + (width - LABEL_WIDTH) * (1 - (now - seconds) / window);
    this.drawAxis(pen, colours, width, height, window);
    this.workers.forEach((worker, row) => this.drawLane(pen, colours, worker, row, width, now, toX));
  }

  drawAxis(pen, colours, width, height, window) {
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colours.muted;
    pen.strokeStyle = colours.faint;
    pen.textBaseline = "middle";
    for (let ago = 0; ago <= window; ago += 5) {
      const x = LABEL_WIDTH + (width - LABEL_WIDTH) * (1 - ago / window);
      pen.beginPath();
      pen.moveTo(Math.round(x) + 0.5, 0);
      pen.lineTo(Math.round(x) + 0.5, height - AXIS_HEIGHT + 3);
      pen.stroke();
      pen.textAlign = ago === 0 ? "right" : x < LABEL_WIDTH + 20 ? "left" : "center";
      if (ago % 10 === 0) pen.fillText(ago === 0 ? (this.isOver ? "end" : "now") : `−${ago} s`, x, height - 7);
    }
  }

  drawLane(pen, colours, worker, row, width, now, toX) {
    const top = row * (this.laneHeight + 3);
    const height = this.laneHeight;
    pen.globalAlpha = 1;
    pen.fillStyle = colours.faint;
    pen.beginPath();
    pen.roundRect(LABEL_WIDTH, top, width - LABEL_WIDTH, height, Math.min(4, height / 2));
    pen.fill();
    if (height >= 10 || row % 4 === 0) {
      pen.fillStyle = colours.muted;
      pen.textAlign = "right";
      pen.font = "11px system-ui, sans-serif";
      pen.fillText(String(worker), LABEL_WIDTH - 8, top + height / 2 + 0.5);
    }
    pen.save();
    pen.beginPath();
    pen.rect(LABEL_WIDTH, top, width - LABEL_WIDTH, height);
    pen.clip();
    const draw = (began, ended, colour, alpha) => {
      const left = toX(began);
      const wide = Math.max(1, toX(ended) - left - 0.5);
      if (left > width || left + wide < LABEL_WIDTH) return;
      pen.globalAlpha = alpha;
      pen.fillStyle = colour;
      pen.beginPath();
      pen.roundRect(left, top, wide, height, Math.min(2.5, wide / 2));
      pen.fill();
    };
    for (const span of this.lanes.get(worker) || []) {
      const colour = span.kind === "call" ? colours.methods[this.colourOf(span.method)] : colours[span.kind] || colours.muted;
      draw(span.began, span.began + span.seconds, colour, span.kind === "call" ? 0.3 + 0.7 * span.busy : 1);
      if (span.kind === "death") draw(span.began + span.seconds - 0.35, span.began + span.seconds, colours.death, 1);
    }
    for (const span of this.running) {
      if (span.worker === worker && !this.isOver) draw(span.began, now + LAG_SECONDS, colours.methods[this.colourOf(span.method)], 0.72);
    }
    pen.restore();
    pen.globalAlpha = 1;
  }

  showTip(event) {
    const box = this.canvas.getBoundingClientRect();
    const worker = this.workers[Math.floor((event.clientY - box.top) / (this.laneHeight + 3))];
    const pixel = this.window / (box.width - LABEL_WIDTH);
    const at = this.now() - (box.right - event.clientX) * pixel;
    const isAt = (span) => span.began - 2 * pixel <= at && at <= span.began + span.seconds + 2 * pixel;
    const span = (this.lanes.get(worker) || []).findLast(isAt);
    this.tip.hidden = span === undefined;
    if (span === undefined) return;
    const what = span.kind === "call" ? span.method : `${KINDS.get(span.kind) || span.kind} ${span.method}`;
    const items = span.kind === "call" ? `, ${span.nItems} ${span.nItems === 1 ? "item" : "items"}` : "";
    this.tip.textContent = `${what}\nworker ${worker}, ${formatSeconds(span.seconds)}${items}`;
    this.tip.style.left = `${Math.min(event.clientX + 14, globalThis.innerWidth - this.tip.offsetWidth - 8)}px`;
    this.tip.style.top = `${event.clientY + 16}px`;
  }
}

export function formatSeconds(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 0.0005) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.9995) return `${(seconds * 1e3).toPrecision(seconds < 0.00995 ? 2 : 3).replace(/\.0+$/, "")} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (value) => String(value).padStart(2, "0");
  return parts[0] ? `${parts[0]}:${two(parts[1])}:${two(parts[2])} h` : `${parts[1]}:${two(parts[2])} min`;
}
