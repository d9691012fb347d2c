// What the server does now: its engines, live charts, and the running requests.

import * as api from "./api.js";
import { Chart } from "./chart.js";
import { compact, duration, fill, h, notice, number, percent, setText, toast } from "./dom.js";
import { Readings } from "./readings.js";

const EVERY_MS = 1000;
const PATIENCE_MS = 10_000;
const SLOW_MS = 15_000; // with a key that is no admin's: its requests count against its limits

export function nowView(main) {
  const view = new Now(main);
  view.tick();
  return { leave: () => view.leave() };
}

const KINDS = { ready: "good", starting: "busy", draining: "busy", restarting: "bad", failed: "bad", queued: "busy", unloaded: "idle" };

class Now {
  constructor(main) {
    this.readings = new Readings();
    this.charts = {
      tokens: new Chart("Tokens per second", [["tokens/s", "--c1"]], compact),
      requests: new Chart("Requests", [["running", "--c1"], ["waiting", "--c2"]], compact),
      kv: new Chart("KV cache in use", [["in use", "--c3"]], percent, { top: 1 }),
      ttft: new Chart("Time to first token", [["p50", "--c1"], ["p95", "--c2"], ["p99", "--c4"]], duration),
      gaps: new Chart("Gap between tokens", [["p50", "--c1"], ["p95", "--c2"], ["p99", "--c4"]], duration),
      hits: new Chart("Cache hits", [["answers", "--c1"], ["prompt tokens", "--c3"]], percent, { top: 1 }),
    };
    this.engines = h("div", { class: "engines" });
    this.message = h("div");
    this.facts = h("p", { class: "facts" });
    this.grid = h("div", { class: "grid" }, Object.values(this.charts).map((chart) => chart.element));
    this.requests = new Requests();
    this.grid.hidden = this.requests.element.hidden = true; // until there are numbers
    fill(main,
      h("div", { class: "view-head" }, h("h1", {}, "Now"), this.facts),
      this.message, this.engines, this.grid, this.requests.element);
    this.onVisible = () => { if (!document.hidden) { clearTimeout(this.timer); this.tick(); } };
    document.addEventListener("visibilitychange", this.onVisible);
  }

  leave() {
    this.left = true;
    clearTimeout(this.timer);
    document.removeEventListener("visibilitychange", this.onVisible);
    Object.values(this.charts).forEach((chart) => chart.destroy());
  }

  /** Ask once and plan the next time; a hidden page asks nothing. */
  async tick() {
    if (this.left || document.hidden || this.asking) return;
    this.asking = true;
    let every = EVERY_MS;
    try {
      const [ready, stats] = await Promise.all([api.ready(), api.call("/stats", { signal: AbortSignal.timeout(PATIENCE_MS) })]);
      if (this.left) return;
      fill(this.message);
      this.showStats(stats, ready);
      if (!stats.engines) every = SLOW_MS;
      else await this.requests.refresh();
    } catch (error) {
      if (this.left) return;
      fill(this.message, notice(error.message, error.help || "The page tries again by itself."));
      if (error.status === 401) every = SLOW_MS;
      try { this.showReady(await api.ready()); } catch { /* said above */ }
    } finally {
      this.asking = false;
      if (!this.left) this.timer = setTimeout(() => this.tick(), every);
    }
  }

  /** Show the engines, or how many there are where no key says which. */
  showReady({ engines, states }) {
    if (engines.length || !states) return this.showEngines(engines);
    const counts = Object.entries(states).map(([state, count]) => `${count} ${state}`);
    fill(this.engines, h("p", { class: "faint" }, `Engines: ${counts.join(", ")}`));
  }

  showStats(stats, ready) {
    const counts = stats.requests ? `${number(stats.requests.total)} requests, ${compact(stats.tokens.generated)} tokens generated` : "";
    setText(this.facts, [`V-Gate ${stats.version}`, `up ${duration(stats.uptime_s)}`, counts].filter(Boolean).join(" · "));
    if (!stats.engines) {
      this.showReady(ready);
      this.grid.hidden = this.requests.element.hidden = true;
      fill(this.message, notice("This key sees its own use only, under Keys.", "The numbers of the whole server take an admin's key."));
      return;
    }
    this.grid.hidden = this.requests.element.hidden = false;
    const since = Object.fromEntries(ready.engines.map((engine) => [engine.engine, engine.for_s]));
    this.showEngines(stats.engines.map((engine) => ({ ...engine, for_s: since[engine.engine] })), ready.warnings);
    const at = Date.now() / 1000;
    const now = this.readings.read(stats, at);
    const { charts } = this;
    charts.tokens.add(at, [now.tokensPerS]);
    charts.requests.add(at, [now.running, now.waiting]);
    charts.kv.add(at, [now.kv]);
    charts.ttft.add(at, now.ttft);
    charts.gaps.add(at, now.gaps);
    charts.hits.add(at, [now.hits, now.prefixHits]);
  }

  showEngines(engines, warnings = []) {
    const several = engines.some((engine) => engine.replica > 0);
    fill(this.engines, engines.map((engine) => engineCard(engine, several)), warnings.map((text) => notice("Warning", text)));
  }
}

function engineCard(engine, several) {
  const isReady = engine.state === "ready";
  const kind = KINDS[engine.state];
  const done = /(\d+(?:\.\d+)?) ?%/.exec(engine.detail ?? "");
  const known = engine.running !== undefined && isReady;
  return h("section", { class: `card engine ${kind}`, "aria-label": `Engine of ${engine.model}` },
    h("div", { class: "engine-name" },
      h("span", { class: `pill ${kind}` }, engine.state),
      h("h3", { title: engine.model }, engine.model),
      h("span", { class: "faint" }, [several ? `engine ${engine.engine}` : "", { embed: "embeddings", classify: "classes or scores" }[engine.task] ?? ""].filter(Boolean).join(", "))),
    isReady ? null : h("div", { class: "phase" },
      kind === "idle" ? null : h("span", { class: "spinner", "aria-hidden": "true" }),
      h("span", {}, engine.detail || engine.state),
      engine.for_s === undefined ? null : h("span", { class: "faint" }, `for ${duration(engine.for_s)}`),
      done ? h("progress", { max: 100, value: Number(done[1]), "aria-label": engine.detail }) : null),
    known ? h("dl", { class: "pairs" },
      pair("running", number(engine.running)), pair("waiting", number(engine.waiting)),
      pair("KV cache", h("span", { class: "with-meter" }, meter(engine.kv_cache_usage, "KV cache in use"), percent(engine.kv_cache_usage))),
      pair("mean batch", engine.batching?.mean_size ?? "–"),
      pair("restarts", number(engine.restarts)),
      pair("ready for", duration(engine.for_s))) : null);
}

const pair = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
export const meter = (share, label) => h("meter", { min: 0, max: 1, low: 0.7, high: 0.9, optimum: 0, value: Math.min(share, 1), "aria-label": label });

/** The table of running requests. */
class Requests {
  constructor() {
    this.rows = h("tbody");
    this.rowOf = new Map();
    this.count = h("span", { class: "faint" });
    this.problem = h("div");
    const heads = ["Age", "Key", "Model", "State", "Prompt", "Generated", "TTFT", "API", "Client", ""];
    this.table = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Running requests" },
      h("table", {}, h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head || h("span", { class: "offscreen" }, "Stop"))))), this.rows));
    this.element = h("section", { class: "card requests" },
      h("div", { class: "card-head" }, h("h2", {}, "Running requests"), this.count), this.problem, this.table);
  }

  async refresh() {
    if (this.later && Date.now() < this.later) return;
    try {
      const { data } = await api.call("/admin/requests");
      this.later = 0;
      fill(this.problem);
      this.table.hidden = false;
      this.show(data);
    } catch (error) {
      this.table.hidden = true;
      setText(this.count, "");
      if (error.status) this.later = Date.now() + SLOW_MS;
      fill(this.problem, h("p", { class: "faint" }, error.status === 404 ? `Running requests can't be listed. ${error.help}` : `${error.message} ${error.help ?? ""}`));
    }
  }

  show(requests) {
    setText(this.count, requests.length ? number(requests.length) : "");
    if (!requests.length) {
      this.rowOf.clear();
      fill(this.rows, h("tr", { class: "empty" }, h("td", { colspan: 10 }, "No request is running.")));
      return;
    }
    // A row stays the same element, so that the focus stays on its button.
    const seen = new Map();
    for (const request of requests.toSorted((a, b) => b.age_s - a.age_s)) {
      const row = this.rowOf.get(request.id) ?? this.newRow(request.id);
      seen.set(request.id, row);
      this.update(row, request);
    }
    this.rowOf = seen;
    const wanted = [...seen.values()];
    if (wanted.length !== this.rows.children.length || wanted.some((row, index) => this.rows.children[index] !== row)) {
      const focused = document.activeElement;
      this.rows.replaceChildren(...wanted);
      if (this.rows.contains(focused)) focused.focus();
    }
  }

  newRow(id) {
    const cells = Array.from({ length: 9 }, () => h("td"));
    const stop = h("button", { type: "button", class: "danger small", "aria-label": `Stop request ${id}`, onclick: () => this.stop(id, stop) }, "Stop");
    const row = h("tr", { title: id }, cells, h("td", { class: "end" }, stop));
    row.cells_ = cells;
    return row;
  }

  update(row, request) {
    const cached = request.cached_tokens ? ` (${number(request.cached_tokens)} cached)` : "";
    const model = request.model === request.served_model || !request.served_model ? request.model : `${request.model} → ${request.served_model}`;
    const texts = [
      duration(request.age_s), request.key || "–", model, request.state, `${number(request.prompt_tokens)}${cached}`,
      number(request.completion_tokens), duration(request.ttft_s), `${request.api}${request.stream ? " · stream" : ""}`, request.client ?? "–",
    ];
    texts.forEach((text, index) => setText(row.cells_[index], text));
    row.cells_[3].className = `state-${request.state}`;
  }

  async stop(id, button) {
    button.disabled = true;
    try {
      await api.call(`/admin/requests/${encodeURIComponent(id)}/cancel`, { method: "POST" });
      toast("The request was stopped.");
    } catch (error) {
      toast(error.status === 404 ? "The request had ended already." : `${error.message} ${error.help}`, error.status === 404 ? "" : "bad");
      button.disabled = false;
    }
  }
}
