// Ask mode: one image, and a conversation about it.

import { answer, duration, userMessage } from "./server.js";

const STARTERS = ["Describe the image.", "What is written in this image?", "What stands out?"];
// What the server opens. Other images, and very large ones, are drawn again by the
// browser: most cameras' files stay as they are.
const PLAIN = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const MOST_BYTES = 8e6;
const LONGEST_SIDE = 2048;

const byId = (id) => document.getElementById(id);

export function startAsk({ announce, complain }) {
  const [ask, log, question, send] = ["ask", "log", "question", "send"].map(byId);
  let image = null; // a data URL
  let messages = [];
  let stop = null; // of the answer under way

  for (const text of STARTERS) {
    const chip = Object.assign(document.createElement("button"), { type: "button", textContent: text });
    chip.onclick = () => put(text);
    byId("starters").append(chip);
  }

  async function look(file) {
    stop?.abort();
    try {
      const { url, width, height } = await read(file);
      image = url;
      byId("image").src = url;
      byId("about").textContent = `${width} × ${height}`;
    } catch {
      complain(new Error(`${file.name || "This"} is not an image that the browser can open.`));
      return;
    }
    messages = [];
    log.replaceChildren();
    delete ask.dataset.empty;
    ask.dataset.fresh = "";
    location.hash = "ask";
    announce("Image ready. Ask a question.");
    question.focus();
  }

  async function put(text) {
    if (!image || stop || !text.trim()) return;
    const before = messages;
    const asked = userMessage(text.trim(), ...(messages.length ? [] : [image]));
    const turn = addTurn(log, text.trim());
    delete ask.dataset.fresh;
    question.value = "";
    const control = (stop = new AbortController());
    busy(true);
    let told = { text: "" };
    try {
      told = await answer([...before, asked], {
        signal: control.signal,
        show: (shown, timings) => turn.show(shown, timings),
      });
    } catch (error) {
      complain(error);
    }
    // Another image may have begun another conversation meanwhile.
    if (stop === control) {
      if (told.text) messages = [...before, asked, { role: "assistant", content: told.text }];
      stop = null;
      busy(false);
    }
    turn.end();
    if (told.text) announce(told.text);
    else turn.remove();
    if (!log.children.length) ask.dataset.fresh = "";
    if (!told.text && !question.value && !control.signal.aborted) question.value = text;
  }

  function busy(now) {
    send.dataset.busy = now;
    send.setAttribute("aria-label", now ? "Stop" : "Ask");
    if (now) announce("Answering");
  }

  byId("composer").onsubmit = (event) => {
    event.preventDefault();
    if (stop) stop.abort();
    else put(question.value);
  };
  question.onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      put(question.value);
    }
  };
  addEventListener("keydown", (event) => event.key === "Escape" && stop?.abort());
  byId("file").onchange = ({ target }) => {
    if (target.files[0]) look(target.files[0]);
    target.value = "";
  };
  addEventListener("paste", ({ clipboardData }) => {
    const file = [...clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (file) look(file);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.dataset.over = "";
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? delete document.body.dataset.over);
  addEventListener("drop", (event) => {
    event.preventDefault();
    delete document.body.dataset.over;
    if (event.dataTransfer.files[0]) look(event.dataTransfer.files[0]);
  });
  return { leave: () => stop?.abort() };
}

function addTurn(log, text) {
  const turn = document.createElement("article");
  const [question, answered, numbers] = ["h2", "p", "p"].map((tag) => document.createElement(tag));
  const badge = document.createElement("span");
  badge.className = "badge";
  question.textContent = text;
  answered.className = "answer";
  answered.dataset.running = "";
  numbers.className = "numbers";
  turn.append(question, answered, numbers);
  log.append(turn);
  log.tabIndex = 0; // the arrow keys scroll it
  turn.scrollIntoView({ block: "end" });
  return {
    show(shown, timings) {
      // A reader who scrolled up is left there.
      const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
      answered.textContent = shown;
      if (timings.ttft) {
        badge.textContent = `TTFT ${duration(timings.ttft)}`;
        const rate = timings.generation_tps;
        numbers.replaceChildren(badge, rate ? `${rate.toFixed(rate < 10 ? 1 : 0)} tokens a second` : "");
      }
      if (atEnd) log.scrollTop = log.scrollHeight;
    },
    end: () => delete answered.dataset.running,
    remove: () => turn.remove(),
  };
}

/** An image file as a data URL that the server opens, and its size in pixels. */
async function read(file) {
  const bitmap = await createImageBitmap(file);
  const { width, height } = bitmap;
  const size = { width, height };
  if (PLAIN.includes(file.type) && file.size <= MOST_BYTES) {
    bitmap.close();
    return { url: await dataUrl(file), ...size };
  }
  const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  const canvas = Object.assign(document.createElement("canvas"), {
    width: Math.max(1, Math.round(width * scale)),
    height: Math.max(1, Math.round(height * scale)),
  });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return { url: canvas.toDataURL("image/png"), ...size };
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
