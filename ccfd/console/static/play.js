// Plays a recording that a person has picked. It is read here, and goes nowhere.

import { read } from "./film.js";
import { speak, words } from "./words.js";

const $ = (id) => document.getElementById(id);
const SPEEDS = [1, 2, 4, 16];
// Nobody waits for a screen that stands still.
const LONGEST_GAP = 2;
const TICK = 50;

let film = null;
let stage = null;
let next = 0;
let now = 0;
let speed = 1;
let isPlaying = false;
let turn = Promise.resolve();

/** A websocket as noVNC sees it, behind which the recording plays. */
class Played {
  binaryType = "arraybuffer";
  protocol = "";
  readyState = WebSocket.CONNECTING;
  onopen = null;
  onmessage = null;
  onclose = null;
  onerror = null;

  begin() {
    this.readyState = WebSocket.OPEN;
    this.onopen?.();
    // What ccfd itself says before the VM's ServerInit: version, security type None, its result.
    for (const word of ["RFB 003.008\n", "\x01\x01", "\0\0\0\0"]) this.say(new TextEncoder().encode(word));
  }

  say(bytes) { this.onmessage?.({ data: bytes.slice().buffer }); }
  send() {}

  close() {
    this.readyState = WebSocket.CLOSED;
    // As with a real one, not before the caller goes on.
    queueMicrotask(() => this.onclose?.({ code: 1000, reason: "" }));
  }
}

async function screenStage(element) {
  const { default: RFB } = await import("./novnc-1.7.0/core/rfb.js");
  const played = new Played();
  const rfb = new RFB(element, played);
  rfb.viewOnly = true;
  rfb.scaleViewport = true;
  rfb.background = "transparent";
  played.begin();
  return { show: (data) => played.say(data), clear: () => { rfb.disconnect(); element.replaceChildren(); } };
}

async function serialStage(element) {
  const { Terminal } = await import("./xterm-6.0.0/lib/xterm.mjs");
  const terminal = new Terminal({ cols: 80, rows: 24, disableStdin: true, theme: { background: "#0f1114" } });
  terminal.open(element);
  return { show: (data) => terminal.write(data), clear: () => { terminal.dispose(); element.replaceChildren(); } };
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function length() { return film.pieces.length ? film.pieces[film.pieces.length - 1].at : 0; }

function tell() {
  $("state").textContent = `${clock(now)} / ${clock(length())}`;
  $("seek").value = String(now);
  $("seek").setAttribute("aria-valuetext", $("state").textContent);
  $("play").textContent = isPlaying ? words.pause : words.play;
}

async function setUp() {
  stage?.clear();
  document.body.dataset.kind = film.kind;
  stage = await (film.kind === "screen" ? screenStage : serialStage)($("screen"));
  next = 0;
}

/** Show all up to a moment, when what was asked for before is shown. */
function go(to) {
  turn = turn.then(() => show(to));
  return turn;
}

/** Show all up to a moment; from the beginning where it lies behind. */
async function show(to) {
  if (to < now || stage === null) await setUp();
  now = to;
  while (next < film.pieces.length && film.pieces[next].at <= now) {
    stage.show(film.pieces[next].data);
    next += 1;
  }
  tell();
}

async function tick() {
  if (!isPlaying) return;
  let to = now + (TICK / 1000) * speed;
  const coming = film.pieces[next]?.at;
  if (coming !== undefined && coming - to > LONGEST_GAP) to = coming - LONGEST_GAP;
  await go(Math.min(to, length()));
  if (next >= film.pieces.length) {
    isPlaying = false;
    tell();
    return;
  }
  setTimeout(tick, TICK);
}

async function opened() {
  const [file] = $("file").files;
  if (!file) return;
  isPlaying = false;
  try {
    film = read(new Uint8Array(await file.arrayBuffer()));
  } catch {
    document.body.dataset.state = "closed";
    $("state").textContent = words.noRecording;
    return;
  }
  document.body.dataset.state = "open";
  $("name").textContent = film.title;
  $("seek").max = String(length());
  for (const id of ["play", "speed", "seek"]) $(id).disabled = false;
  stage?.clear();
  stage = null;
  now = 0;
  await go(0);
  toggle();
}

function toggle() {
  isPlaying = !isPlaying;
  if (isPlaying && next >= film.pieces.length) go(0).then(tick);
  else tick();
  tell();
}

speak();
document.title = words.recording;
$("seek").setAttribute("aria-label", words.seek);
$("pick").onclick = () => $("file").click();
$("file").onchange = opened;
$("play").onclick = toggle;
$("speed").onclick = () => {
  speed = SPEEDS[(SPEEDS.indexOf(speed) + 1) % SPEEDS.length];
  $("speed").textContent = `${speed}×`;
};
$("seek").oninput = () => go(Number($("seek").value));
