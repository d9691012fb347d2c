// A playground: a conversation with one model, or the same one with several side by side.

import * as api from "./api.js";
import { Conversation, addChunk, toolsOf } from "./conversation.js";
import { copyButton, duration, field, fill, h, notice, number, setText, toast } from "./dom.js";
import { showMarkdown } from "./markdown.js";
import { asCurl, asJavaScript, asPython } from "./snippets.js";

const MOST_MODELS = 4;
const EXAMPLES = ["Explain in three sentences why the sky is blue.", "Write a Python function that merges two sorted lists.", "List five names for a cat, in a table with their origin."];
const TOOL_EXAMPLE = JSON.stringify([{ name: "get_weather", description: "The weather in a city", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } }], null, 2);
// What runs goes on while another view is shown.
let chat = null;

export function chatView(main) {
  chat ??= new Chat();
  chat.show(main);
  return { retry: () => chat.loadModels() };
}

class Chat {
  constructor() {
    this.talk = new Conversation();
    this.running = new Map(); // AbortController by answer
    this.names = [];
    this.log = h("div", { class: "log", role: "log", "aria-label": "Conversation", "aria-live": "off", tabindex: "0" });
    this.told = h("div", { class: "offscreen", "aria-live": "polite" });
    this.input = h("textarea", { rows: 1, placeholder: "Ask something", "aria-label": "Message", oninput: () => this.grow(), onkeydown: (event) => this.onKey(event) });
    this.sendButton = h("button", { type: "submit" }, "Send");
    this.stopButton = h("button", { type: "button", class: "danger", hidden: true, onclick: () => this.stopAll() }, "Stop");
    this.editing = null;
    this.editNote = h("div", { class: "edit-note", hidden: true }, "Sending replaces this message and all after it.",
      h("button", { type: "button", class: "quiet small", onclick: () => this.edit(null) }, "Cancel"));
    this.problem = h("div");
    this.composer = h("form", { class: "composer", onsubmit: (event) => { event.preventDefault(); this.send(); } },
      this.editNote, h("div", { class: "composer-row" }, this.input, this.sendButton, this.stopButton));
    this.modelList = h("div", { class: "models" });
    this.panel = this.settingsPanel();
    this.element = [
      h("h1", { class: "offscreen" }, "Chat"),
      h("div", { class: "chat" },
        h("div", { class: "talk" }, this.problem, this.log, this.told, this.composer),
        this.panel),
    ];
  }

  async show(main) {
    fill(main, this.element);
    this.draw();
    this.grow();
    if (matchMedia("(min-width: 900px)").matches) this.input.focus({ preventScroll: true });
    await this.loadModels();
  }

  /** Ask which models there are. What is typed and what is answered stays. */
  async loadModels() {
    try {
      this.cards = await api.models();
      this.names = this.cards.map((card) => card.id);
      fill(this.problem);
    } catch (error) {
      fill(this.problem, notice(error.message, error.help));
      return;
    }
    this.talk.models = this.talk.models.filter((name) => this.names.includes(name));
    if (!this.talk.models.length && this.names.length) this.talk.models = [this.names[0]];
    this.drawModels();
    this.draw();
  }

  // The settings.

  settingsPanel() {
    const { talk } = this;
    const save = () => talk.save();
    const setting = (label, name, attributes, hint) => {
      const input = h("input", { type: "number", value: talk.settings[name] ?? "", placeholder: "default", ...attributes });
      input.addEventListener("input", () => { talk.settings[name] = input.value === "" ? "" : Number(input.value); save(); });
      return field(label, input, hint);
    };
    const system = h("textarea", { rows: 3, value: talk.system, oninput: () => { talk.system = system.value; save(); } });
    const stop = h("input", { type: "text", value: talk.settings.stop ?? "", oninput: () => { talk.settings.stop = stop.value; save(); } });
    const effort = h("select", { onchange: () => { talk.settings.reasoning_effort = effort.value; save(); } },
      ["", "none", "low", "medium", "high"].map((value) => h("option", { value }, value || "default")));
    effort.value = talk.settings.reasoning_effort ?? "";
    const tools = h("textarea", { rows: 3, class: "mono", value: talk.tools, placeholder: "A JSON list of functions", spellcheck: "false", oninput: () => { talk.tools = tools.value; this.checkTools(tools); save(); } });
    const fresh = h("input", { type: "checkbox", checked: talk.fresh, onchange: () => { talk.fresh = fresh.checked; save(); } });
    const keep = h("input", { type: "checkbox", checked: talk.keep, onchange: () => { talk.keep = keep.checked; save(); } });
    this.snippets = h("div", { class: "buttons left" },
      copyButton(() => this.snippet(asCurl), "curl"), copyButton(() => this.snippet(asPython), "Python"), copyButton(() => this.snippet(asJavaScript), "JavaScript"));
    const isWide = matchMedia("(min-width: 900px)").matches;
    return h("aside", { class: "panel", "aria-label": "Settings" },
      h("div", { class: "buttons left" }, h("button", { type: "button", class: "quiet", onclick: () => this.restart() }, "New chat")),
      h("details", { open: isWide },
        h("summary", {}, "Settings"),
        h("fieldset", {}, h("legend", {}, "Models"), this.modelList),
        field("System prompt", system),
        h("div", { class: "two" },
          setting("Temperature", "temperature", { min: 0, max: 2, step: 0.1 }),
          setting("Top p", "top_p", { min: 0, max: 1, step: 0.05 }),
          setting("Most tokens", "max_tokens", { min: 1, step: 1 }),
          setting("Seed", "seed", { step: 1 }),
          setting("Frequency penalty", "frequency_penalty", { min: -2, max: 2, step: 0.1 }),
          setting("Presence penalty", "presence_penalty", { min: -2, max: 2, step: 0.1 })),
        field("Stop string", stop),
        field("Reasoning effort", effort),
        field("Tools", tools),
        h("button", { type: "button", class: "quiet small", onclick: () => { tools.value = talk.tools = TOOL_EXAMPLE; this.checkTools(tools); save(); } }, "Insert an example"),
        h("label", { class: "check" }, fresh, "Never take an answer from the cache"),
        h("label", { class: "check" }, keep, "Keep this conversation in this browser")),
      h("div", {}, h("h2", { class: "small-head" }, "Copy as"), this.snippets));
  }

  checkTools(input) {
    let problem = "";
    try { toolsOf(input.value); } catch (error) { problem = `Not JSON: ${error.message}`; }
    input.setCustomValidity(problem);
    input.toggleAttribute("aria-invalid", Boolean(problem));
    input.title = problem;
  }

  drawModels() {
    fill(this.modelList, this.names.map((name) => {
      const box = h("input", { type: "checkbox", checked: this.talk.models.includes(name), onchange: () => {
        const chosen = this.names.filter((other) => (other === name ? box.checked : this.talk.models.includes(other)));
        if (!chosen.length || chosen.length > MOST_MODELS) { box.checked = !box.checked; return; }
        this.talk.models = chosen;
        this.talk.save();
        this.draw();
      } });
      return h("label", { class: "check" }, box, h("span", { class: "model-name" }, name));
    }), h("small", {}, this.names.length > 1 ? "Several answer side by side." : ""));
  }

  snippet(as) {
    const { talk } = this;
    const draft = this.input.value.trim();
    const body = talk.request(talk.models[0]);
    if (draft || !talk.turns.length) body.messages.push({ role: "user", content: draft || "Hello!" });
    return as(api.base, body, Boolean(api.key()));
  }

  // The conversation.

  draw() {
    if (!this.talk.turns.length) {
      fill(this.log, h("div", { class: "hello" },
        h("h2", {}, this.talk.models.length ? `Talk to ${this.talk.models.join(" and ")}` : "Chat"),
        h("p", { class: "faint" }, "What you write goes to this server only."),
        h("div", { class: "examples" }, EXAMPLES.map((text) => h("button", { type: "button", class: "quiet", onclick: () => { this.input.value = text; this.send(); } }, text)))));
      return;
    }
    fill(this.log, this.talk.turns.map((turn, index) => h("div", { class: "turn" },
      turn.user === undefined ? null : this.userBubble(turn, index),
      h("div", { class: "answers" }, Object.keys(turn.answers).map((model) => this.answerElement(turn, model, index, this.talk.isLast(model, index)))))));
    this.scroll(true);
  }

  userBubble(turn, index) {
    return h("div", { class: "user" }, h("div", { class: "bubble" }, turn.user),
      h("div", { class: "tools-row" }, copyButton(() => turn.user), h("button", { type: "button", class: "quiet small", onclick: () => this.edit(index) }, "Edit")));
  }

  answerElement(turn, model, index, isLast) {
    const answer = turn.answers[model];
    const thought = h("div", { class: "markdown" });
    const parts = {
      reasoning: h("details", { class: "reasoning", hidden: true }, h("summary", {}, "Reasoning"), thought),
      thought,
      text: h("div", { class: "markdown" }),
      calls: h("div", { class: "calls" }),
      foot: h("div", { class: "foot" }),
      problem: h("div"),
    };
    const element = h("article", { class: "answer", "aria-label": `Answer of ${model}` },
      h("div", { class: "answer-head" }, h("span", { class: "model-name" }, model)),
      parts.reasoning, parts.text, parts.calls, parts.problem, parts.foot);
    answer.draw_ = () => this.drawAnswer(element, parts, turn, model, index, isLast);
    answer.draw_();
    return element;
  }

  drawAnswer(element, parts, turn, model, index, isLast) {
    const answer = turn.answers[model];
    const runs = this.running.has(answer);
    element.setAttribute("aria-busy", runs);
    element.classList.toggle("runs", runs);
    parts.reasoning.hidden = !answer.reasoning;
    if (answer.reasoning) {
      setText(parts.reasoning.firstChild, runs && !answer.content ? "Thinking…" : "Reasoning");
      showMarkdown(parts.thought, answer.reasoning);
    }
    showMarkdown(parts.text, answer.content);
    if (runs) {
      if (!parts.foot.querySelector(".dots")) fill(parts.foot, h("span", { class: "dots" }, h("i"), h("i"), h("i")));
    } else fill(parts.foot, this.factsOf(answer), h("span", { class: "tools-row" },
      copyButton(() => answer.content),
      isLast ? h("button", { type: "button", class: "quiet small", onclick: () => this.retry(turn, model, index) }, "Retry") : null));
    if (!runs || answer.calls) this.drawCalls(parts.calls, turn, model, index, isLast && !runs);
    fill(parts.problem, answer.problem ? notice(titleOf(answer), answer.problem) : null);
  }

  factsOf(answer) {
    const { usage } = answer;
    const facts = [];
    if (usage) {
      const cached = usage.prompt_tokens_details?.cached_tokens;
      facts.push(`${number(usage.prompt_tokens)} prompt${cached ? ` (${number(cached)} cached)` : ""}`, `${number(usage.completion_tokens)} generated`);
    }
    if (answer.ttft) facts.push(`TTFT ${duration(answer.ttft)}`);
    // Calls are sent when they are complete, which says nothing about the rate.
    if (usage && answer.decode > 0 && !answer.calls && usage.completion_tokens > 1) facts.push(`${((usage.completion_tokens - 1) / answer.decode).toFixed(1)} tokens/s`);
    if (answer.cache === "hit" || answer.cache === "coalesced") facts.push(answer.cache === "hit" ? "from the cache" : "shared generation");
    if (answer.finish === "length") facts.push("cut at the token limit");
    return h("span", { class: "facts" }, facts.join(" · "));
  }

  drawCalls(place, turn, model, index, mayAnswer) {
    const calls = turn.answers[model].calls ?? [];
    const results = calls.map(() => h("textarea", { rows: 2, class: "mono", placeholder: "What the tool returns", "aria-label": "Result of the tool" }));
    fill(place, calls.map((call, n) => h("div", { class: "call" },
      h("div", { class: "code-head" }, h("span", {}, "Tool call ", h("b", {}, call.name)), copyButton(() => call.arguments)),
      h("pre", { tabindex: "0" }, h("code", {}, pretty(call.arguments))),
      mayAnswer ? results[n] : null)),
    calls.length && mayAnswer ? h("button", { type: "button", class: "small", onclick: () => {
      const given = calls.map((call, n) => ({ tool_call_id: call.id, content: results[n].value }));
      this.sendResults(model, given);
    } }, "Send the result") : null);
  }

  // What the person does.

  onKey(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); this.send(); }
    if (event.key === "Escape") { if (this.running.size) this.stopAll(); else this.edit(null); }
    if (event.key === "ArrowUp" && !this.input.value && this.talk.turns.length) {
      const index = this.talk.turns.findLastIndex((turn) => turn.user !== undefined);
      if (index >= 0) { event.preventDefault(); this.edit(index); }
    }
  }

  grow() {
    this.input.style.height = "auto";
    this.input.style.height = `${Math.min(this.input.scrollHeight + 2, 240)}px`;
  }

  edit(index) {
    this.editing = index;
    this.editNote.hidden = index === null;
    this.input.value = index === null ? "" : this.talk.turns[index].user;
    this.grow();
    this.input.focus();
  }

  send() {
    const text = this.input.value.trim();
    if (!text || this.running.size) return;
    if (!this.talk.models.length) {
      toast("There is no model to ask yet.", "bad");
      return;
    }
    if (this.editing !== null) this.talk.turns.length = this.editing;
    this.editing = null;
    this.editNote.hidden = true;
    this.input.value = "";
    this.grow();
    this.begin({ user: text, answers: {} }, this.talk.models);
  }

  begin(turn, models) {
    this.talk.turns.push(turn);
    for (const model of models) turn.answers[model] = { content: "" };
    const index = this.talk.turns.length - 1;
    const runs = models.map((model) => this.answer(turn, model, index, this.talk.fresh));
    this.draw();
    return Promise.all(runs);
  }

  /** Go on with a model; others may have had calls in the same turn. */
  sendResults(model, given) {
    const last = this.talk.turns.at(-1);
    if (!last.results || last.results[model]) this.begin({ results: { [model]: given }, answers: {} }, [model]);
    else {
      last.results[model] = given;
      last.answers[model] = { content: "" };
      this.answer(last, model, this.talk.turns.length - 1, this.talk.fresh);
      this.draw();
    }
  }

  retry(turn, model, index) {
    turn.answers[model] = { content: "" };
    // Asked the same again, the cache would give the same answer.
    const run = this.answer(turn, model, index, true);
    this.draw();
    this.input.focus();
    return run;
  }

  restart() {
    this.stopAll();
    this.talk.turns = [];
    this.talk.save();
    this.edit(null);
    this.draw();
  }

  stopAll() {
    for (const controller of this.running.values()) controller.abort();
  }

  // The stream of one answer.

  async answer(turn, model, index, isFresh) {
    const answer = turn.answers[model];
    const controller = new AbortController();
    this.running.set(answer, controller);
    this.showRunning();
    // A screen reader is told the whole answer at its end, and not each token.
    setText(this.told, `${model} answers`);
    const began = performance.now();
    let first = 0;
    try {
      const response = await api.send("/v1/chat/completions", {
        method: "POST", signal: controller.signal, body: this.talk.request(model, index),
        headers: isFresh ? { "cache-control": "no-cache" } : {},
      });
      answer.cache = response.headers.get("x-vgate-cache");
      for await (const data of api.events(response)) {
        if (data === "[DONE]") { answer.done = true; break; }
        if (!addChunk(answer, JSON.parse(data))) continue;
        first ||= performance.now();
        answer.decode = (performance.now() - first) / 1000;
        this.redraw(answer);
      }
      if (!answer.done) answer.problem = "The connection was lost. Retry asks again.";
    } catch (error) {
      answer.stopped = error.name === "AbortError";
      answer.problem = answer.stopped ? "You stopped it." : problemIn(error);
    }
    if (first) answer.ttft = (first - began) / 1000;
    this.running.delete(answer);
    this.showRunning();
    setText(this.told, `${model}: ${answer.content} ${answer.problem ?? ""}`);
    answer.draw_?.();
    this.scroll();
    this.talk.save();
  }

  /** Draw an answer at most once a frame. */
  redraw(answer) {
    if (answer.frame_) return;
    answer.frame_ = requestAnimationFrame(() => {
      answer.frame_ = 0;
      answer.draw_();
      this.scroll();
    });
  }

  showRunning() {
    const runs = this.running.size > 0;
    this.sendButton.hidden = runs;
    this.stopButton.hidden = !runs;
  }

  /** Follow the answer, unless the person has scrolled up. */
  scroll(always = false) {
    const { log } = this;
    if (getComputedStyle(log).overflowY === "visible") {
      // On a phone the page scrolls, and the composer covers its end.
      const last = log.lastElementChild;
      if (last && (always || last.getBoundingClientRect().bottom < innerHeight + 60)) last.scrollIntoView({ block: "end" });
      return;
    }
    if (always || log.scrollHeight - log.scrollTop - log.clientHeight < 140) log.scrollTop = log.scrollHeight;
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** What a problem with an answer is called: whether anything of it has come. */
const titleOf = (answer) => {
  if (answer.stopped) return "Stopped";
  return answer.content || answer.reasoning || answer.calls?.length ? "The answer ended early" : "There is no answer";
};

/** An error in sentences, with what helps. A browser's own words for a lost connection differ. */
export function problemIn(error) {
  if (error instanceof TypeError) return "The connection was lost. Retry asks again.";
  const message = /[.!?]$/.test(error.message) ? error.message : `${error.message}.`;
  return `${message} ${error.help || (error.status === 0 ? "Retry asks again." : "")}`.trim();
}
