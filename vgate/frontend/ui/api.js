// The server as the page sees it. Every address is below the page's own.

export const base = new URL(".", location.href.split("#")[0]).href.replace(/\/$/, "");

const KEY = "vgate.key";
export const changes = new EventTarget(); // "key": it was set or taken away; "wanted": one is needed

export const key = () => sessionStorage.getItem(KEY) ?? "";

export function setKey(value) {
  value = value.replaceAll(/[^\x20-\x7e]/g, "").trim(); // what a header can carry
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
  changes.dispatchEvent(new Event("key"));
}

/** An answer that is an error, or none. `help` says what to do about it. */
export class ApiError extends Error {
  constructor(status, message, help = "") {
    super(message);
    this.status = status;
    this.help = help;
  }
}

const noAnswer = () => new ApiError(0, "The server doesn't answer.");

/** Send a request and return the response. Raises ApiError. */
export async function send(path, { method = "GET", body, signal, headers = {} } = {}) {
  const given = { ...headers };
  if (key()) given.authorization = `Bearer ${key()}`;
  if (body !== undefined) given["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(base + path, {
      method, signal, headers: given, cache: "no-store",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw noAnswer();
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

/** Send a request and return the answer's JSON. Raises ApiError. */
export const call = async (path, options) => (await send(path, options)).json();

/**
 * Return what /ready says, whatever its status. It names the models that the key may use. Raises
 * ApiError.
 */
export async function ready() {
  const headers = key() ? { authorization: `Bearer ${key()}` } : {};
  try {
    return await (await fetch(`${base}/ready`, { headers, cache: "no-store" })).json();
  } catch {
    throw noAnswer(); // or a proxy's page
  }
}

async function problemOf(response) {
  let message = `The server answered ${response.status}.`;
  if (response.status === 401) {
    changes.dispatchEvent(new Event("wanted"));
    // The server's own words tell a program which header to send.
    return new ApiError(401, key() ? "This key is not valid." : "This server asks for an API key.", "Enter one with the Key button above.");
  }
  try {
    message = (await response.json()).error.message;
  } catch { /* a proxy's answer */ }
  const help = {
    404: "This server doesn't have it: update V-Gate.",
    429: "Wait a moment, or raise the key's limits.",
  }[response.status] ?? "";
  return new ApiError(response.status, message, help);
}

/** Yield the data of server-sent events. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) yield data.join("\n");
    }
  }
}

/** Return the models that can chat: names and their longest context. */
export async function models() {
  return (await call("/v1/models")).data;
}
