// The page of the dashboard. Everything that programs tell is text and stays text: it is set with textContent alone.

import { Timeline, formatSeconds } from "/timeline.js";

const PARTS = ["start_up", "init", "waiting", "working", "exit"];
const PART_NAMES = { start_up: "start", init: "constructor", waiting: "waiting", working: "working", exit: "end" };
const SILENCE_MS = 12000; // the dashboard says something every five seconds
const RETRY_MS = 3000;
const MAX_FAILURES = 100;
const MAX_CALLS = 12;
const SPARK_SECONDS = 120;
const MIN_SPARK_SECONDS = 20;

const byId = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en");
const formatCount = (count) => whole.format(count);
const formatRate = (rate) => (rate === 0 ? "0" : rate < 0.095 ? rate.toFixed(2) : rate < 9.95 ? rate.toFixed(1) : formatCount(Math.round(rate)));
const formatPercent = (share) => `${Math.round(100 * share)} %`;
const formatBytes = (n) => (n === null || n === undefined ? "–" : n < 1e9 ? `${formatCount(Math.round(n / 1e6))} MB` : `${(n / 1e9).toFixed(2)} GB`);
const formatTime = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");
const plural = (n, word) => `${formatCount(n)} ${word}${n === 1 ? "" : "s"}`;

function setText(node, text) {
  const value = String(text);
  if (node.textContent !== value) node.textContent = value;
}

function setClass(node, base, extra) {
  const value = extra ? `${base} ${extra}` : base;
  if (node.className !== value) node.className = value;
}

function setWidth(node, share) {
  const value = `${(100 * Math.min(1, Math.max(0, share || 0))).toFixed(2)}%`;
  if (node.style.width !== value) node.style.width = value;
}

// A copy of a template, and its parts by their names.
function copy(name) {
  const root = byId(`${name}-template`).content.firstElementChild.cloneNode(true);
  const parts = { root };
  for (const node of root.querySelectorAll("[data-part]")) parts[node.dataset.part] = node;
  if (root.dataset.part) parts[root.dataset.part] = root;
  return parts;
}

// Keep one component for each entry, in the order of the entries.
function sync(parent, components, entries, key, make) {
  const wanted = new Set();
  let before = parent.firstChild;
  for (const entry of entries) {
    const id = key(entry);
    wanted.add(id);
    if (!components.has(id)) components.set(id, make(entry));
    const component = components.get(id);
    if (component.root === before) before = before.nextSibling;
    else parent.insertBefore(component.root, before);
    component.update(entry);
  }
  for (const [id, component] of components) {
    if (!wanted.has(id)) {
      component.root.remove();
      components.delete(id);
    }
  }
}

class Call {
  constructor() {
    Object.assign(this, copy("call"));
  }

  update(call) {
    setText(this.method, call.method);
    setClass(this.bar, "bar", call.total === null ? "endless" : "");
    setWidth(this.fill, call.total ? call.done / call.total : 0);
    this.bar.setAttribute("aria-label", `${call.method}: items done`);
    if (call.total === null) this.bar.removeAttribute("aria-valuenow");
    else {
      this.bar.setAttribute("aria-valuemax", call.total);
      this.bar.setAttribute("aria-valuenow", call.done);
    }
    const of = call.total === null ? "" : ` / ${formatCount(call.total)}`;
    setText(this.count, `${formatCount(call.done)}${of}${call.total ? `  ·  ${formatPercent(call.done / call.total)}` : ""}`);
    setText(this.pace, this.describePace(call));
  }

  describePace(call) {
    const left = call.left === null ? "" : `  ·  about ${formatSeconds(call.left)} left`;
    return `${formatRate(call.rate)} items/s  ·  for ${formatSeconds(Math.max(0, page.now - call.began))}${left}`;
  }
}

class EndedCall {
  constructor() {
    Object.assign(this, copy("ended-call"));
  }

  update(call) {
    const items = call.error && call.total ? `${formatCount(call.done)} of ${plural(call.total, "item")}` : plural(call.done, "item");
    const seconds = formatSeconds(call.ended - call.began);
    setClass(this.root, "", call.error ? "failed" : "");
    setText(this.mark, call.error ? "✕" : "✓");
    setText(this.method, call.method);
    setText(this.result, call.error ? `${items}, ended by ${call.error} after ${seconds}` : `${items} in ${seconds}`);
  }
}

class Worker {
  constructor() {
    Object.assign(this, copy("worker"));
  }

  update(worker) {
    setText(this.id, worker.id);
    setText(this.state, worker.state);
    setClass(this.state, "chip", String(worker.state));
    const several = worker.n_running > 1 ? ` × ${formatCount(worker.n_running)}` : "";
    setText(this.method, worker.method ? `${worker.method}${several}` : "");
    setText(this.running, worker.method ? formatSeconds(worker.running) : "");
    setText(this.busy, worker.busy === undefined ? "–" : formatPercent(worker.busy));
    setWidth(this.share, worker.busy);
    setText(this.items, formatCount(worker.n_tasks));
    setText(this.memory, formatBytes(worker.rss));
    setText(this.pid, worker.pid ?? "–");
    setText(this.device, worker.device ?? (worker.pid === undefined ? "–" : "cpu"));
    setText(this.generation, worker.generation ?? "–");
    this.updateSplit(worker.parts);
  }

  updateSplit(parts) {
    const sum = PARTS.reduce((total, part) => total + parts[part], 0) || 1;
    for (const part of PARTS) setWidth(this[part], parts[part] / sum);
    const text = PARTS.map((part) => `${PART_NAMES[part]} ${formatSeconds(parts[part])}`).join(", ");
    if (this.split.title !== text) {
      this.split.title = text;
      this.split.setAttribute("aria-label", text);
    }
  }
}

class Row {
  constructor() {
    this.root = document.createElement("tr");
  }

  update(cells) {
    while (this.root.children.length < cells.length) {
      const cell = this.root.appendChild(document.createElement("td"));
      if (this.root.children.length > 1) cell.className = "num";
      else cell.className = "method";
    }
    cells.forEach((text, i) => setText(this.root.children[i], text));
    this.root.firstElementChild.title = cells[0];
  }
}

class Pool {
  constructor() {
    Object.assign(this, copy("pool"));
    this.timeline = new Timeline(this.canvas, byId("tip"));
    this.callRows = new Map();
    this.endedRows = new Map();
    this.workerRows = new Map();
    this.methodRows = new Map();
    this.slowRows = new Map();
    this.legendItems = new Map();
    this.points = [];
    this.hasEnded = false;
  }

  update({ pool, state }) {
    const isLost = state === "lost" && pool.ended === null;
    const isEnded = pool.ended !== null || isLost;
    this.latest = pool;
    this.isRunning = !isEnded;
    this.points.push(...pool.points);
    this.points = this.points.filter(([at]) => at > pool.now - SPARK_SECONDS);
    this.updateHead(pool, isLost, isEnded);
    sync(this.calls, this.callRows, isLost ? [] : pool.calls.slice(-MAX_CALLS), (call) => call.id, () => new Call());
    const ended = [...pool.ended_calls].reverse().slice(0, Math.max(3, 6 - 2 * pool.calls.length));
    sync(this.ended, this.endedRows, ended, (call) => call.id, () => new EndedCall());
    this["no-calls"].hidden = this.callRows.size > 0 || this.endedRows.size > 0;
    sync(this.workers, this.workerRows, pool.workers, (worker) => worker.id, () => new Worker());
    this.updateFailures(pool);
    this.updateTotals(pool);
    this.timeline.take(isLost ? { ...pool, ended: pool.began } : pool);
    this.updateLegend(pool);
    if (isEnded && !this.hasEnded && !pool.n_failed && !pool.why && !isLost) this.root.open = false; // it was a good one
    this.hasEnded = isEnded;
  }

  updateHead(pool, isLost, isEnded) {
    setText(this.name, pool.name);
    setText(this.kind, `${pool.kind} · ${plural(pool.n_workers || pool.workers.length, "worker")} · ${pool.backend}`);
    const phase = isLost ? "lost" : pool.ended !== null && pool.phase === "closed" ? "ended" : pool.phase;
    setText(this.phase, phase);
    setClass(this.phase, "chip", phase);
    setText(this.rate, formatRate(isEnded ? 0 : pool.rate));
    this.rate.parentNode.hidden = isEnded;
    setText(this.items, formatCount(pool.n_tasks));
    setText(this.age, isLost ? "its program is gone" : `${isEnded ? "ran for" : "for"} ${formatSeconds(Math.max(0, (pool.ended ?? page.now) - pool.began))}`);
    this.failed.hidden = !pool.n_failed;
    setText(this.failed, plural(pool.n_failed, "failure"));
    this.why.hidden = !pool.why;
    setText(this.why, pool.why);
  }

  updateFailures(pool) {
    for (const failure of pool.failures) this.failures.prepend(makeFailure(failure));
    while (this.failures.children.length > MAX_FAILURES) this.failures.lastElementChild.remove();
    this["failures-section"].hidden = !this.failures.children.length;
    const kinds = Object.entries(pool.failing).sort((a, b) => b[1] - a[1]).slice(0, 5);
    const shown = this.failures.children.length;
    const latest = shown < pool.n_failed ? `, the latest ${shown} shown` : "";
    setText(this["failures-note"], `${kinds.map(([method, n]) => `${method}: ${formatCount(n)}`).join(", ")}${latest}`);
  }

  updateTotals(pool) {
    this["totals-section"].hidden = !pool.methods.length && !pool.slowest.length;
    const methods = pool.methods.map((entry) => [entry.method, formatCount(entry.n_tasks), formatSeconds(entry.seconds), formatSeconds(entry.seconds / entry.n_tasks)]);
    sync(this.methods, this.methodRows, methods, (cells) => cells[0], () => new Row());
    const slowest = pool.slowest.map((entry) => [`${entry.method}${entry.arguments ? `(${entry.arguments})` : ""}`, entry.item, entry.worker, formatSeconds(entry.seconds)]);
    sync(this.slowest, this.slowRows, slowest.map((cells, i) => ({ i, cells })), ({ i }) => i, () => {
      const row = new Row();
      return { root: row.root, update: ({ cells }) => row.update(cells) };
    });
  }

  updateLegend(pool) {
    const entries = [...this.timeline.methods].map(([method, colour]) => ({ method, colour }));
    sync(this.legend, this.legendItems, entries.slice(0, 12), (entry) => entry.method, makeLegendItem);
    const busy = pool.workers.filter((worker) => worker.state === "busy").length;
    this.canvas.setAttribute("aria-label", `Time line of ${plural(pool.workers.length, "worker")}, ${busy} busy; methods: ${entries.map((entry) => entry.method).join(", ") || "none"}`);
  }
}

function makeLegendItem({ method, colour }) {
  const root = document.createElement("li");
  root.appendChild(document.createElement("i")).className = `m${colour}`;
  root.append(method);
  return { root, update() {} };
}

function makeFailure(failure) {
  const parts = copy("failure");
  setText(parts.at, formatTime(failure.at));
  setText(parts.error, failure.error);
  const item = failure.item === null ? "" : `, item ${failure.item}`;
  setText(parts.where, `${failure.method}${item}${failure.worker === null ? "" : `, worker ${failure.worker}`}`);
  setText(parts.text, failure.text);
  setText(parts.traceback, failure.traceback || "Tracebacks are not shown (show_tracebacks=False).");
  return parts.root;
}

class Program {
  constructor() {
    Object.assign(this, copy("program"));
    this.components = new Map();
  }

  update(program) {
    const about = program.about;
    setText(this.name, about.name);
    setText(this.state, program.state);
    setClass(this.state, "chip", program.state);
    setText(this.about, `process ${about.pid} on ${about.host} · Python ${about.python} · ${about.n_cpus} CPUs`);
    const pools = program.pools.map((pool) => ({ pool, state: program.state }));
    pools.sort((a, b) => (a.pool.ended !== null) - (b.pool.ended !== null) || b.pool.id - a.pool.id);
    sync(this.pools, this.components, pools, ({ pool }) => pool.id, () => new Pool());
  }
}

const page = {
  now: 0, // seconds since the epoch, by the dashboard's clock
  programs: new Map(),
  heardAt: performance.now(),
  colours: null,

  take(news) {
    if (news.first) this.reset();
    this.now = news.now;
    this.heardAt = performance.now();
    const programs = [...news.programs].sort((a, b) => (b.state === "connected") - (a.state === "connected") || b.number - a.number);
    sync(byId("programs"), this.programs, programs, (program) => program.number, () => new Program());
    byId("empty").hidden = programs.length > 0;
    this.updateTiles(programs);
    setConnection("live", "Live");
    if (!isMoving()) this.draw();
  },

  reset() {
    for (const program of this.programs.values()) program.root.remove();
    this.programs.clear();
  },

  get pools() {
    return [...this.programs.values()].flatMap((program) => [...program.components.values()]);
  },

  updateTiles(programs) {
    const all = this.pools;
    const running = all.filter((pool) => pool.isRunning);
    const workers = running.flatMap((pool) => pool.latest.workers);
    const sum = (pools, read) => pools.reduce((total, pool) => total + read(pool.latest), 0);
    const nBusy = workers.filter((worker) => worker.state === "busy").length;
    const rate = sum(running, (pool) => pool.rate);
    setText(byId("n-running"), formatCount(running.length));
    const nConnected = programs.filter((program) => program.state === "connected").length;
    setText(byId("n-ended"), `${plural(nConnected, "program")}${all.length > running.length ? `, ${formatCount(all.length - running.length)} ended` : ""}`);
    setText(byId("n-busy"), `${formatCount(nBusy)} / ${formatCount(workers.length)}`);
    setWidth(byId("busy-share"), nBusy / (workers.length || 1));
    setText(byId("rate"), formatRate(rate));
    setText(byId("n-items"), formatCount(sum(all, (pool) => pool.n_tasks)));
    const nWaiting = sum(running, (pool) => pool.n_outstanding);
    setText(byId("n-outstanding"), nWaiting ? `${formatCount(nWaiting)} under way` : "nothing under way");
    const nFailed = sum(all, (pool) => pool.n_failed);
    setText(byId("n-failed"), formatCount(nFailed));
    setClass(byId("n-failed"), "figure", nFailed ? "bad" : "");
    const failing = all.filter((pool) => pool.latest.n_failed).map((pool) => pool.latest.name);
    setText(byId("last-failure"), nFailed ? `in ${failing.join(", ")}` : "none so far");
    drawSparkline(running);
    document.title = running.length ? `${formatRate(rate)} items/s · ${plural(running.length, "pool")} · objproxy` : "objproxy";
  },

  draw() {
    this.colours ??= readColours();
    for (const pool of this.pools) if (pool.root.open) pool.timeline.draw(this.colours);
  },
};

// The sum of the rates of the pools that run, second by second.
function drawSparkline(pools) {
  const oldest = Math.max(0, ...pools.map((pool) => pool.latest.now - (pool.points[0]?.[0] ?? pool.latest.now)));
  const length = Math.ceil(Math.min(SPARK_SECONDS, Math.max(MIN_SPARK_SECONDS, oldest)));
  const sums = new Array(length).fill(0);
  for (const pool of pools) {
    const rates = new Array(length).fill(null);
    for (const [at, rate] of pool.points) rates[length - 1 - Math.floor(pool.latest.now - at)] = rate;
    for (let i = 1; i < length; i += 1) rates[i] ??= rates[i - 1];
    sums.forEach((_, i) => { sums[i] += rates[i] || 0; });
  }
  const top = Math.max(...sums, 1e-9) * 1.1;
  const line = sums.map((rate, i) => `${i},${(100 - (100 * rate) / top).toFixed(1)}`).join("L");
  const svg = byId("rate-line");
  if (!svg.firstChild) {
    for (const name of ["area", "line"]) {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("class", name);
      svg.append(path);
    }
  }
  svg.setAttribute("viewBox", `0 0 ${length - 1} 100`);
  svg.firstChild.setAttribute("d", `M0,100L${line}L${length - 1},100Z`);
  svg.lastChild.setAttribute("d", `M${line}`);
}

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  const colours = { methods: [0, 1, 2, 3, 4, 5, 6, 7].map((i) => read(`m${i}`)) };
  for (const name of ["muted", "faint", "start_up", "init", "exit", "death"]) colours[name] = read(name);
  return colours;
}

function setConnection(kind, text) {
  setClass(byId("connection"), "connection", kind);
  setText(byId("connection"), text);
  document.body.classList.toggle("lost", kind !== "live");
}

function listen() {
  const source = new EventSource("/events");
  source.onmessage = (event) => page.take(JSON.parse(event.data));
  source.onerror = () => {
    if (source.readyState === EventSource.CONNECTING) {
      setConnection("waiting", "Connection lost, trying again");
      return;
    }
    // The dashboard has answered with a refusal: another one runs on this port now, or has not let this page in.
    source.close();
    setConnection("lost", `Not let in: objproxy dashboard --url ${location.port} gives an address`);
    setTimeout(listen, RETRY_MS);
  };
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const isMoving = () => !calm.matches;

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  page.colours = null;
  page.draw();
});
setInterval(() => {
  if (performance.now() - page.heardAt > SILENCE_MS) setConnection("waiting", "No news from the dashboard");
}, 1000);

let drawnAt = 0;
function animate(now) {
  if (isMoving() && now - drawnAt > 45) {
    drawnAt = now;
    page.draw();
  }
  requestAnimationFrame(animate);
}

setText(byId("snippet"), `import objproxy\n\nobjproxy.connect_to_dashboard(${location.port})`);
listen();
requestAnimationFrame(animate);
