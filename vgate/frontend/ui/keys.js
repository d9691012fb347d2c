// What each key used and has left; and, with an admin's key, the keys themselves.

import * as api from "./api.js";
import { confirmed, copyButton, compact, field, fill, h, notice, number, toast } from "./dom.js";

const DAYS = 30;
const DAY_MS = 86_400_000;

export function keysView(main) {
  new Keys(main).refresh();
  return {};
}

const dayOf = (time) => new Date(time).toISOString().slice(0, 10);

class Keys {
  constructor(main) {
    this.limits = h("div");
    this.admin = h("div");
    this.usage = h("div");
    fill(main,
      h("div", { class: "view-head" }, h("h1", {}, "Keys"),
        h("button", { type: "button", class: "quiet", onclick: () => this.refresh() }, "Refresh")),
      this.limits, this.admin, this.usage);
  }

  async refresh() {
    const stats = await this.showLimits();
    // Without an admin's key the answer is known.
    if (stats?.engines && stats.limits.length) await this.showKeys();
    else fill(this.admin);
    if (stats) await this.showUsage();
  }

  // The limits, of which /stats tells each key its own.

  async showLimits() {
    let stats;
    try {
      stats = await api.call("/stats");
    } catch (error) {
      fill(this.limits, notice(error.message, error.help));
      return null;
    }
    if (!stats.limits.length) {
      fill(this.limits, notice("This server asks for no key.", "Anyone who reaches it may use it, without limits. Keys: set security.enabled and security.key_file."));
      return stats;
    }
    fill(this.limits, h("section", { class: "card" },
      h("div", { class: "card-head" }, h("h2", {}, "Limits"), h("span", { class: "faint" }, "in the window that ends now")),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Limits" }, h("table", {},
        h("thead", {}, h("tr", {}, ["Key", "Requests", "Tokens a minute", "At once", "Budget"].map((head) => h("th", { scope: "col" }, head)))),
        h("tbody", {}, stats.limits.map((row) => h("tr", {},
          h("td", {}, h("b", {}, row.key)),
          h("td", {}, left(row.requests, row.rate_limit, `in ${row.window_s} s`)),
          h("td", {}, left(row.tokens, row.tokens_per_minute)),
          h("td", {}, left(row.concurrent, row.concurrent_limit)),
          h("td", {}, row.budget_tokens ? left(row.budget_used, row.budget_tokens, `a ${row.budget_period}`) : "–"))))))));
    return stats;
  }

  // The keys.

  async showKeys() {
    let keys;
    try {
      keys = (await api.call("/admin/keys")).data;
    } catch (error) {
      fill(this.admin, missing("Manage", "Keys can't be managed here.", error));
      return;
    }
    fill(this.admin, h("section", { class: "card" },
      h("div", { class: "card-head" }, h("h2", {}, "Manage"), h("button", { type: "button", onclick: () => this.add() }, "Add a key")),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Keys" }, h("table", {},
        h("thead", {}, h("tr", {}, ["Key", "May use", "Budget", "Expires", "Created", ""].map((head) => h("th", { scope: "col" }, head || h("span", { class: "offscreen" }, "Actions"))))),
        h("tbody", {}, keys.map((key) => this.keyRow(key)))))));
  }

  keyRow(key) {
    const terms = [
      key.models?.length ? key.models.join(", ") : "all models",
      key.rate_limit && `${number(key.rate_limit)} requests`, key.tokens_per_minute && `${compact(key.tokens_per_minute)} tokens/min`,
      key.concurrent && `${key.concurrent} at once`,
    ].filter(Boolean).join(" · ");
    return h("tr", {},
      h("td", {}, h("b", {}, key.name), key.admin ? h("span", { class: "pill" }, "admin") : null, key.group ? h("span", { class: "faint" }, ` group ${key.group}`) : null),
      h("td", { class: "wrap" }, terms),
      h("td", {}, key.budget_tokens ? left(key.used?.budget_tokens, key.budget_tokens, `a ${key.budget_period ?? "day"}`) : "–"),
      h("td", {}, expiry(key.expires_at)),
      h("td", {}, key.created ? key.created.slice(0, 10) : "–"),
      h("td", { class: "end" }, key.editable === false
        ? h("span", { class: "faint", title: "It is in the configuration, or there is no key file." }, "configured")
        : h("div", { class: "buttons" },
          h("button", { type: "button", class: "quiet small", "aria-label": `Rotate ${key.name}`, onclick: () => this.rotate(key.name) }, "Rotate"),
          h("button", { type: "button", class: "danger small", "aria-label": `Revoke ${key.name}`, onclick: () => this.revoke(key.name) }, "Revoke"))));
  }

  add() {
    const inputs = {
      name: h("input", { type: "text", required: true, maxlength: 128, autocomplete: "off" }),
      admin: h("input", { type: "checkbox" }),
      rate_limit: h("input", { type: "number", min: 1, placeholder: "default" }),
      tokens_per_minute: h("input", { type: "number", min: 1, placeholder: "default" }),
      concurrent: h("input", { type: "number", min: 1, placeholder: "default" }),
      budget_tokens: h("input", { type: "number", min: 1, placeholder: "none" }),
      budget_period: h("select", {}, ["day", "month"].map((value) => h("option", { value }, value))),
      models: h("input", { type: "text", placeholder: "all", autocomplete: "off" }),
      expires_at: h("input", { type: "datetime-local" }),
    };
    const problem = h("p", { class: "problem", role: "alert" });
    const submit = async (event) => {
      event.preventDefault();
      const body = termsOf(inputs);
      try {
        const made = await api.call("/admin/keys", { method: "POST", body });
        dialog.close();
        this.showSecret(made);
      } catch (error) {
        problem.textContent = error.message;
      }
    };
    const dialog = h("dialog", { "aria-label": "Add a key", onclose: () => dialog.remove() },
      h("form", { onsubmit: submit },
        h("h2", {}, "Add a key"),
        field("Name", inputs.name),
        h("div", { class: "two" },
          field("Requests per window", inputs.rate_limit), field("Tokens a minute", inputs.tokens_per_minute),
          field("Requests at once", inputs.concurrent), field("Expires", inputs.expires_at),
          field("Budget in tokens", inputs.budget_tokens), field("Budget for each", inputs.budget_period)),
        field("Models", inputs.models, "Names, with commas between them; none: all"),
        h("label", { class: "check" }, inputs.admin, "Admin: sees and manages everything"),
        problem,
        h("div", { class: "buttons" },
          h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel"),
          h("button", { type: "submit" }, "Add"))));
    document.body.append(dialog);
    dialog.showModal();
  }

  /** Show a new key. It is told only once. */
  showSecret({ name, key }) {
    const dialog = h("dialog", { "aria-label": `The key of ${name}`, onclose: () => { dialog.remove(); this.refresh(); } },
      h("h2", {}, `The key of ${name}`),
      h("p", {}, "Copy it now: only its hash is stored, so it can't be shown again."),
      h("div", { class: "secret" }, h("code", {}, key), copyButton(() => key)),
      h("div", { class: "buttons" }, h("button", { type: "button", onclick: () => dialog.close() }, "Done")));
    document.body.append(dialog);
    dialog.showModal();
  }

  async rotate(name) {
    if (!(await confirmed(`Rotate ${name}?`, "It gets a new key. The one in use ends within a second.", "Rotate"))) return;
    await this.change(async () => this.showSecret(await api.call(`/admin/keys/${encodeURIComponent(name)}/rotate`, { method: "POST" })));
  }

  async revoke(name) {
    if (!(await confirmed(`Revoke ${name}?`, "Its requests are refused from now on. This can't be undone.", "Revoke"))) return;
    await this.change(async () => {
      await api.send(`/admin/keys/${encodeURIComponent(name)}`, { method: "DELETE" });
      toast(`${name} was revoked.`);
      await this.showKeys();
    });
  }

  async change(action) {
    try {
      await action();
    } catch (error) {
      toast(`${error.message} ${error.help ?? ""}`, "bad");
    }
  }

  // The use.

  async showUsage() {
    const since = dayOf(Date.now() - (DAYS - 1) * DAY_MS);
    let rows;
    try {
      rows = (await api.call(`/v1/usage?by=key,model,day&since=${since}`)).data;
    } catch (error) {
      fill(this.usage, missing("Use", "What was used can't be told.", error));
      return;
    }
    fill(this.usage, h("section", { class: "card" },
      h("div", { class: "card-head" }, h("h2", {}, "Use"), h("span", { class: "faint" }, `the last ${DAYS} days`)),
      rows.length ? [dayChart(rows), usageTable(rows)] : h("p", { class: "faint" }, "Nothing was used.")));
  }
}

function missing(title, text, error) {
  return h("section", { class: "card" }, h("h2", {}, title), h("p", { class: "faint" }, `${error.status === 404 ? text : error.message} ${error.help}`));
}

/** Return a bar that shows what was used of a limit, and what is left. */
function left(used, limit, unit = "") {
  if (used === null) return h("span", { class: "faint" }, `unknown of ${compact(limit)} ${unit}`);
  if (!limit) return h("span", {}, `${compact(used ?? 0)} `, h("span", { class: "faint" }, "no limit"));
  const remaining = Math.max(limit - (used ?? 0), 0);
  return h("span", { class: "with-meter" },
    h("meter", { min: 0, max: 1, low: 0.7, high: 0.9, optimum: 0, value: Math.min((used ?? 0) / limit, 1), "aria-label": "used" }),
    `${compact(used ?? 0)} of ${compact(limit)} ${unit}`, h("span", { class: "faint" }, ` ${compact(remaining)} left`));
}

function expiry(at) {
  if (!at) return "never";
  const date = new Date(typeof at === "number" ? at * 1000 : at);
  const text = date.toISOString().slice(0, 16).replace("T", " ");
  return date < new Date() ? h("span", { class: "pill bad" }, `expired ${text}`) : text;
}

function termsOf(inputs) {
  const terms = { name: inputs.name.value.trim() };
  for (const name of ["rate_limit", "tokens_per_minute", "concurrent", "budget_tokens"]) {
    if (inputs[name].value) terms[name] = Number(inputs[name].value);
  }
  if (terms.budget_tokens) terms.budget_period = inputs.budget_period.value;
  if (inputs.admin.checked) terms.admin = true;
  const models = inputs.models.value.split(",").map((model) => model.trim()).filter(Boolean);
  if (models.length) terms.models = models;
  if (inputs.expires_at.value) terms.expires_at = new Date(inputs.expires_at.value).toISOString();
  return terms;
}

/** Return the tokens of each day as bars. */
function dayChart(rows) {
  const days = Array.from({ length: DAYS }, (_, n) => dayOf(Date.now() - (DAYS - 1 - n) * DAY_MS));
  const of = Object.fromEntries(days.map((day) => [day, { prompt: 0, completion: 0 }]));
  for (const row of rows) {
    if (!of[row.day]) continue;
    of[row.day].prompt += row.prompt_tokens;
    of[row.day].completion += row.completion_tokens;
  }
  const most = Math.max(...days.map((day) => of[day].prompt + of[day].completion), 1);
  const bars = days.map((day) => {
    const { prompt, completion } = of[day];
    const text = `${day}: ${number(prompt)} prompt and ${number(completion)} generated tokens`;
    const bar = h("div", { class: "day", title: text });
    const up = h("i", { class: "completion" });
    const down = h("i", { class: "prompt" });
    up.style.height = `${(completion / most) * 100}%`;
    down.style.height = `${(prompt / most) * 100}%`;
    bar.append(up, down);
    return bar;
  });
  return h("figure", { class: "days" },
    h("div", { class: "bars", role: "img", "aria-label": `Tokens of each day, at most ${number(most)}` }, bars),
    h("figcaption", {}, h("span", {}, days[0]), h("span", {}, h("span", { class: "key c1" }, "generated"), " \u00a0 ", h("span", { class: "key c3" }, "prompt"), ` · at most ${compact(most)} a day`), h("span", {}, "today")));
}

function usageTable(rows) {
  const heads = ["Day", "Key", "Model", "Requests", "Prompt", "Cached", "Generated", "Reasoning", "Errors"];
  const sorted = rows.toSorted((a, b) => b.day.localeCompare(a.day) || (a.key ?? "").localeCompare(b.key ?? ""));
  return h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Use by key and day" }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((head, index) => h("th", { scope: "col", class: index > 2 ? "num" : "" }, head)))),
    h("tbody", {}, sorted.map((row) => h("tr", {},
      h("td", {}, row.day), h("td", {}, row.key || "–"), h("td", {}, row.model),
      [row.requests, row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.reasoning_tokens, row.errors].map((value) => h("td", { class: "num" }, number(value))))))));
}
