// Live mode: the newest frame of the camera is captioned, then the newest again.

import { answer, duration, userMessage } from "./server.js";

// Prompts and suffixes of Apple's FastVLM app, joined by a space as there:
// github.com/apple/ml-fastvlm, app/FastVLM App/ContentView.swift
const PRESETS = [
  ["Describe image", "Describe the image in English.", "Output should be brief, about 15 words or less."],
  ["Facial expression", "What is this person's facial expression?", "Output only one or two words."],
  ["Read text", "What is written in this image?", "Output only the text in the image."],
];
const MOST_TOKENS = 240; // as there
const LONGEST_SIDE = 1024; // the model looks at no more
const KEPT = 1000;
const SILENCE = 5000; // milliseconds between two captions that are read aloud

const byId = (id) => document.getElementById(id);
const sleep = (time) => new Promise((resolve) => setTimeout(resolve, time));

export function startLive({ announce, complain }) {
  const stage = document.querySelector(".stage");
  const [video, pause, preset, prompt, suffix, cap, camera, list] = [
    "video", "pause", "preset", "prompt", "suffix", "cap", "camera", "history",
  ].map(byId);
  const canvas = document.createElement("canvas");
  let captions = []; // newest last
  let ends = []; // when the last few captions were whole
  let stream = null;
  let stop = null; // of the loop that runs
  let spoken = 0;

  PRESETS.forEach(([name], at) => preset.add(new Option(name, at)));
  preset.add(new Option("Your own", ""));
  preset.onchange = () => {
    const [, text, brief] = PRESETS[preset.value] ?? [];
    if (text) [prompt.value, suffix.value] = [text, brief];
    else prompt.focus();
  };
  preset.onchange();
  for (const field of [prompt, suffix]) field.oninput = () => (preset.value = "");

  async function open(device) {
    close();
    const wanted = device ? { deviceId: { exact: device } } : { facingMode: { ideal: "environment" } };
    try {
      if (!navigator.mediaDevices) throw new Error("Browsers give the camera to https and localhost alone.");
      stream = await navigator.mediaDevices.getUserMedia({ video: { ...wanted, width: { ideal: 1280 } } });
    } catch (error) {
      const refused = error.name === "NotAllowedError";
      complain(refused ? new Error("The browser was not allowed to use the camera.") : new Error(error.message || "There is no camera."));
      return;
    }
    // The person may have left while the browser asked.
    if (byId("live").hidden) return close();
    video.srcObject = stream;
    stream.getVideoTracks()[0].onended = close;
    await offerCameras();
    pause.disabled = false;
    resume();
    pause.focus();
  }

  async function offerCameras() {
    const devices = await navigator.mediaDevices.enumerateDevices();
    const cameras = devices.filter(({ kind }) => kind === "videoinput");
    const current = stream.getVideoTracks()[0].getSettings().deviceId;
    camera.replaceChildren(...cameras.map(({ label, deviceId }, at) => new Option(label || `Camera ${at + 1}`, deviceId)));
    camera.value = current;
    byId("cameras").hidden = cameras.length < 2;
  }

  function close() {
    hold();
    stream?.getTracks().forEach((track) => track.stop());
    stream = video.srcObject = null;
    stage.dataset.state = "off";
    pause.disabled = true;
    pause.textContent = "Pause";
    byId("live-caption").textContent = "";
    byId("live-ttft").hidden = byId("live-rate").hidden = true;
  }

  function hold() {
    stop?.abort();
    stop = null;
    ends = [];
    if (!stream) return;
    video.pause();
    stage.dataset.state = "paused";
    pause.textContent = "Go on";
    byId("live-rate").hidden = false;
    byId("live-rate").textContent = "paused";
  }

  async function resume() {
    const control = (stop = new AbortController());
    stage.dataset.state = "running";
    pause.textContent = "Pause";
    byId("live-rate").hidden = true;
    try {
      await video.play();
      while (!control.signal.aborted) {
        const begun = performance.now();
        await caption(control.signal);
        const pace = Number(cap.value) && 1000 / Number(cap.value);
        const rest = begun + pace - performance.now();
        if (rest > 0) await sleep(rest);
      }
    } catch (error) {
      if (control.signal.aborted) return;
      complain(error);
      hold();
    }
  }

  async function caption(signal) {
    const frame = grab();
    if (!frame) return sleep(50);
    const line = byId("live-caption");
    const told = await answer([userMessage(`${prompt.value} ${suffix.value}`.trim(), frame)], {
      signal,
      max_tokens: MOST_TOKENS,
      show(text, timings) {
        if (signal.aborted || !text) return;
        line.textContent = text;
        byId("live-ttft").hidden = !timings.ttft;
        byId("live-ttft").textContent = `TTFT ${duration(timings.ttft ?? 0)}`;
      },
    });
    // A caption that was cut short by a pause stays on the image, not in the list.
    if (!signal.aborted && told.text.trim()) keep(told);
  }

  /** The frame that is on the screen now, as a data URL. */
  function grab() {
    const { videoWidth: width, videoHeight: height } = video;
    if (!width) return null;
    const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/jpeg", 0.9);
  }

  function keep({ text, timings }) {
    const now = new Date();
    ends = [...ends.slice(-9), now.getTime()];
    if (ends.length > 1) {
      const rate = ((ends.length - 1) * 1000) / (ends.at(-1) - ends[0]);
      byId("live-rate").hidden = false;
      byId("live-rate").textContent = `${rate.toFixed(1)} a second`;
    }
    const same = captions.at(-1)?.text === text.trim();
    captions = [...captions.slice(1 - KEPT), { time: now, text: text.trim(), ttft: timings.ttft }];
    // A scene that does not change takes one line.
    if (same) list.firstChild.remove();
    list.prepend(entryOf(captions.at(-1)));
    while (list.children.length > KEPT) list.lastChild.remove();
    list.tabIndex = 0; // the arrow keys scroll it
    allow(true);
    if (now - spoken > SILENCE) {
      spoken = now;
      announce(text);
    }
  }

  function allow(some) {
    for (const id of ["copy", "save", "clear"]) byId(id).disabled = !some;
  }

  const written = () => captions.map(({ time, text, ttft }) =>
    [time.toISOString(), ttft ? `${Math.round(ttft * 1000)} ms` : "", text.replace(/\s+/g, " ")].join("\t") + "\n",
  ).join("");

  byId("start").onclick = () => open();
  pause.onclick = () => (stop ? hold() : resume());
  camera.onchange = () => open(camera.value);
  byId("copy").onclick = () =>
    navigator.clipboard.writeText(written()).then(() => announce("Copied"), complain);
  byId("save").onclick = () => {
    const url = URL.createObjectURL(new Blob([written()], { type: "text/tab-separated-values" }));
    const name = `captions ${new Date().toISOString().slice(0, 19).replace(/[T:]/g, "-")}.tsv`;
    Object.assign(document.createElement("a"), { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
    announce("Saved");
  };
  byId("clear").onclick = () => {
    captions = [];
    list.replaceChildren();
    allow(false);
    pause.focus();
  };
  // A tab that nobody sees needs no captions.
  document.addEventListener("visibilitychange", () => document.hidden && stop && hold());
  return { leave: close };
}

function entryOf({ time, text, ttft }) {
  const entry = document.createElement("li");
  const [clock, words, speed] = ["time", "span", "span"].map((tag) => document.createElement(tag));
  clock.textContent = clock.dateTime = time.toTimeString().slice(0, 8);
  words.textContent = text;
  speed.textContent = ttft ? duration(ttft) : "";
  speed.className = "soft";
  entry.append(clock, words, speed);
  return entry;
}
