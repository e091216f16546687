// The frame around the two modes: which one is shown, what is announced, what went wrong.

import { startAsk } from "./ask.js";
import { startLive } from "./live.js";
import { chooseModel, findModels } from "./server.js";

const byId = (id) => document.getElementById(id);

/** Says something to a screen reader. */
function announce(text) {
  byId("status").textContent = text;
}

let hiding = 0;
/** Shows what went wrong, for a while. */
function complain(error) {
  const line = byId("trouble");
  line.textContent =
    error instanceof TypeError ? "The server cannot be reached. Is it still running?" : error.message;
  line.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => (line.hidden = true), 8000);
}

const page = { announce, complain };
const modes = { ask: startAsk(page), live: startLive(page) };

function show() {
  const mode = location.hash === "#live" ? "live" : "ask";
  document.body.dataset.mode = mode;
  for (const name of Object.keys(modes)) {
    byId(name).hidden = name !== mode;
    const link = document.querySelector(`nav a[href="#${name}"]`);
    if (name === mode) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    if (name !== mode) modes[name].leave?.();
  }
  modes[mode].enter?.();
}

addEventListener("hashchange", show);
show();

/** The model's name, or a choice where there are several. */
function showModels(names) {
  if (names.length === 1) {
    byId("model").textContent = names[0];
    return;
  }
  const choice = document.createElement("select");
  choice.ariaLabel = "The model that answers";
  choice.append(...names.map((name) => new Option(name, name)));
  choice.onchange = () => chooseModel(choice.value);
  byId("model").replaceChildren(choice);
}
findModels().then(showModels, complain);
