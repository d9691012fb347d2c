// A conversation with one or more models, and what is kept of it in the browser.

const PLACE = "vgate.chat";

/**
 * A turn is what the person said, `user`, or the results of tools, `results` by model, each
 * {tool_call_id, content}; and `answers` by model: {content, reasoning, calls, finish, usage, ...}.
 */
export class Conversation {
  constructor() {
    this.system = "";
    this.models = [];
    this.settings = {};
    this.tools = "";
    this.fresh = false;
    this.keep = true;
    this.turns = [];
    try {
      Object.assign(this, JSON.parse(localStorage.getItem(PLACE) ?? "{}"));
    } catch { /* what an earlier page kept */ }
  }

  /** Keep the conversation in the browser, or nothing of it but that it isn't to be kept. */
  save() {
    const kept = this.keep ? this : { keep: false };
    try {
      localStorage.setItem(PLACE, JSON.stringify(kept, (name, value) => (name.endsWith("_") ? undefined : value)));
    } catch { /* too long for the browser: it lasts as long as the page */ }
  }

  /** Whether a model's answer in a turn is its latest, and nothing was said since. */
  isLast(model, index) {
    return this.turns.slice(index + 1).every((turn) => turn.user === undefined && !turn.answers[model]);
  }

  /** Return the messages that a model gets for its answer in a turn. */
  messages(model, upTo = this.turns.length - 1) {
    const messages = this.system.trim() ? [{ role: "system", content: this.system }] : [];
    this.turns.slice(0, upTo + 1).forEach((turn, index) => {
      if (turn.user !== undefined) messages.push({ role: "user", content: turn.user });
      for (const result of turn.results?.[model] ?? []) messages.push({ role: "tool", ...result });
      const answer = turn.answers[model];
      if (index < upTo && answer && (answer.content || answer.calls?.length)) messages.push(asMessage(answer));
    });
    return messages;
  }

  /** Return the body of the request for a model's answer. Raises SyntaxError for tools that aren't JSON. */
  request(model, upTo) {
    const body = { model, messages: this.messages(model, upTo) };
    for (const [name, value] of Object.entries(this.settings)) {
      if (value !== "" && value !== null && value !== undefined) body[name] = value;
    }
    const tools = toolsOf(this.tools);
    if (tools.length) body.tools = tools;
    return { ...body, stream: true, stream_options: { include_usage: true } };
  }
}

function asMessage(answer) {
  const message = { role: "assistant", content: answer.content || null };
  if (answer.calls?.length) {
    message.tool_calls = answer.calls.map(({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: text } }));
  }
  return message;
}

/** Return the tools of a text: a JSON list, of OpenAI's form or of bare functions. */
export function toolsOf(text) {
  if (!text.trim()) return [];
  const tools = JSON.parse(text);
  return (Array.isArray(tools) ? tools : [tools]).map((tool) => (tool.function ? tool : { type: "function", function: tool }));
}

/** Add a chunk of a stream to an answer; return whether it has something to show. */
export function addChunk(answer, chunk) {
  if (chunk.error) throw new Error(chunk.error.message);
  if (chunk.usage) answer.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return false;
  if (choice.finish_reason) answer.finish = choice.finish_reason;
  const { content, reasoning_content: reasoning, tool_calls: calls = [] } = choice.delta ?? {};
  if (content) answer.content += content;
  if (reasoning) answer.reasoning = (answer.reasoning ?? "") + reasoning;
  for (const part of calls) {
    const call = ((answer.calls ??= [])[part.index] ??= { id: "", name: "", arguments: "" });
    if (part.id) call.id = part.id;
    if (part.function?.name) call.name += part.function.name;
    if (part.function?.arguments) call.arguments += part.function.arguments;
  }
  return Boolean(content || reasoning || calls.length);
}
