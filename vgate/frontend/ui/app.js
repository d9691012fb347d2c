// Shows the view that the address names, the server's state, and asks for a key.

import * as api from "./api.js";
import { chatView } from "./chat.js";
import { connectView } from "./connect.js";
import { field, fill, h, setText } from "./dom.js";
import { keysView } from "./keys.js";
import { nowView } from "./now.js";

const STATUS_EVERY_MS = 5000;
const THEMES = ["", "light", "dark"];

const main = document.getElementById("main");
const views = { now: nowView, chat: chatView, keys: keysView, connect: connectView };
const titles = { now: "Now", chat: "Chat", keys: "Keys", connect: "Connect" };
let shown = null;
let current = "now";
let wasReady = true;

function show() {
  const name = location.hash.slice(1);
  if (name === "main") {
    history.replaceState(null, "", `#${current}`);
    main.focus();
    return;
  }
  const wanted = name in views ? name : "now";
  for (const link of document.querySelectorAll(".bar nav a")) {
    if (link.getAttribute("href") === `#${wanted}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  current = wanted;
  document.title = `${titles[wanted]} · V-Gate`;
  shown?.leave?.();
  main.className = wanted;
  shown = views[wanted](main);
}

// The state, in every view.

const status = document.getElementById("status");

function showStatus(ready, text) {
  status.className = `pill ${ready === null ? "bad" : ready ? "good" : "busy"}`;
  setText(status, text);
}

async function pollStatus() {
  if (!document.hidden) {
    try {
      const { ready, reason } = await api.ready();
      const isLoading = /load|start/i.test(reason ?? "");
      showStatus(ready, ready ? "ready" : isLoading ? "loading" : "not ready");
      status.title = reason ?? "";
      // What they could not ask while the engine loaded.
      if (ready && !wasReady) shown?.retry?.();
      wasReady = ready;
    } catch {
      showStatus(null, "no answer");
    }
  }
  setTimeout(pollStatus, STATUS_EVERY_MS);
}

// The key.

const keyButton = document.getElementById("key-button");

function askForKey() {
  if (document.querySelector("dialog[open]")) return;
  const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false", value: api.key(), placeholder: "vg-…" });
  const dialog = h("dialog", { "aria-label": "API key", class: "key-dialog", onclose: () => dialog.remove() },
    h("form", { onsubmit: (event) => { event.preventDefault(); api.setKey(input.value.trim()); dialog.close(); } },
      h("h2", {}, "API key"),
      field("Key", input, "Kept in this tab only, and sent to this server only. An admin's key shows everything."),
      h("div", { class: "buttons" },
        h("button", { type: "button", class: "quiet", onclick: () => { api.setKey(""); dialog.close(); } }, "Forget"),
        h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel"),
        h("button", { type: "submit" }, "Use"))));
  document.body.append(dialog);
  dialog.showModal();
}

let asked = false;
keyButton.addEventListener("click", askForKey);
api.changes.addEventListener("wanted", () => {
  keyButton.classList.add("wanted");
  if (!asked) askForKey();
  asked = true;
});
api.changes.addEventListener("key", () => {
  showKey();
  asked = false;
  show();
});

function showKey() {
  keyButton.classList.remove("wanted");
  fill(keyButton, "Key", api.key() ? h("span", { class: "wide" }, ` …${api.key().slice(-4)}`) : null);
}

// The theme.

const themeButton = document.getElementById("theme-button");

function showTheme() {
  const theme = document.documentElement.dataset.theme ?? "";
  const name = { "": "Auto", light: "Light", dark: "Dark" }[theme];
  fill(themeButton, "◐", h("span", { class: "wide" }, ` ${name}`));
  themeButton.setAttribute("aria-label", `Theme: ${name}`);
}

themeButton.addEventListener("click", () => {
  const root = document.documentElement;
  const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "") + 1) % THEMES.length];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  localStorage.setItem("vgate.theme", next);
  showTheme();
  dispatchEvent(new Event("theme"));
});

addEventListener("hashchange", show);
showKey();
showTheme();
show();
pollStatus();
