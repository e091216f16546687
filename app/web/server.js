// What the page knows of the server: its model, its token, and one streamed answer.

const TOKEN = "fastvlm-token";

let model = "";

function headers() {
  const token = sessionStorage.getItem(TOKEN);
  return { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) };
}

// One dialog, whoever asks for it; resolves once a token was typed.
let asking = null;
function askForToken() {
  asking ??= new Promise((resolve) => {
    const door = document.getElementById("door");
    const field = document.getElementById("token");
    sessionStorage.removeItem(TOKEN);
    field.value = "";
    document.getElementById("key").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(TOKEN, field.value.trim());
      door.close();
      asking = null;
      resolve();
    };
    // Without a token there is nothing to go back to.
    door.oncancel = (event) => event.preventDefault();
    door.showModal();
  });
  return asking;
}

async function request(path, options = {}) {
  for (;;) {
    const response = await fetch(path, { ...options, headers: headers() });
    if (response.status === 401) {
      await askForToken();
      continue;
    }
    if (response.ok) return response;
    const reply = await response.json().catch(() => null);
    throw new Error(reply?.error?.message ?? `The server answered ${response.status}`);
  }
}

/** The names of the models; the first answers until another is chosen. */
export async function findModels() {
  const { data } = await (await request("v1/models")).json();
  model ||= data[0].id;
  return data.map((each) => each.id);
}

export function chooseModel(name) {
  model = name;
}

/**
 * Streams the answer to `messages`: calls `show(text, timings)` with all of the text so
 * far, and returns the last of both. `signal` ends it; what was shown is then returned.
 */
export async function answer(messages, { signal, show, ...options }) {
  let text = "";
  let timings = {};
  try {
    if (!model) await findModels();
    const response = await request("v1/chat/completions", {
      method: "POST",
      body: JSON.stringify({ model, messages, stream: true, temperature: 0, ...options }),
      signal,
    });
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      text += event.choices[0]?.delta.content ?? "";
      timings = { ...timings, ...event.timings };
      show(text, timings);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
  return { text, timings };
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

/** A user's message: images as data URLs, then text. */
export function userMessage(text, ...images) {
  const parts = images.map((url) => ({ type: "image_url", image_url: { url } }));
  return { role: "user", content: [...parts, { type: "text", text }] };
}

/** "182 ms", or "2.4 s". */
export function duration(seconds) {
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}
