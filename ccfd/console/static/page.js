// The console's page: opens the session, joins screen and buttons, says what happens.

import { speak, why, words } from "./words.js";
import { follow, open, ticketOfAddress } from "./session.js";

const $ = (id) => document.getElementById(id);
const body = document.body;
const kind = new URLSearchParams(location.search).get("type") === "serial" ? "serial" : "screen";
const isTouch = matchMedia("(pointer: coarse)").matches;

// Endings after which the session may be taken up again, and those where that is worth a try unasked.
const MAY_FOLLOW = new Set([1000, 1006, 1012, 4408, 4409, 4411, 4423, 4429, 4502, 4503, 4507]);
const FOLLOWS_BY_ITSELF = new Set([1006, 1012]);
const LONGEST_WAIT = 5000;
// 83 seconds in all: no longer is the ticket good that takes the session up again.
const TRIES = 20;

let view = null;
let about = {};
let tries = 0;
let isOpen = false;

function state(name, text) {
  body.dataset.state = name;
  $("state").textContent = text;
}

function title(text) {
  $("name").textContent = text;
  const what = kind === "serial" ? words.serial : words.console;
  document.title = `${text} – ${what}`;
}

function hear(told) {
  about = told;
  if (told.name) title(told.slice ? `${told.name} · ${told.slice}` : told.name);
  if (told.again) follow.set(told.again);
  adapt();
}

/** Show what the session allows. */
function adapt() {
  const only = Boolean(about.view_only);
  view?.viewOnly(only);
  for (const id of ["keyboard", "reset", "send", "type"]) $(id).disabled = only;
  if (isOpen) {
    const told = [only ? words.viewing : words.open, ...(about.recorded ? [words.recorded] : [])];
    state("open", told.join(" · "));
  }
}

function opened() {
  isOpen = true;
  tries = 0;
  $("tools").hidden = false;
  $("reset").hidden = !view.reset;
  $("size").hidden = !view.scale;
  $("send").hidden = !view.paste;
  $("keyboard").hidden = !isTouch || kind === "serial";
  $("full").hidden = !document.documentElement.requestFullscreen;
  view.label(words.screen);
  adapt();
  if (!isTouch) view.focus();
  hint();
}

function end(heading, text, { code = null, again = null } = {}) {
  isOpen = false;
  state("closed", words.closed);
  $("tools").hidden = true;
  showClipboard(false);
  $("why").textContent = heading;
  $("what").textContent = text;
  $("again").hidden = again === null;
  $("again").onclick = again;
  $("code").textContent = code === null ? "" : words.code(code);
  $("end").hidden = false;
  $("hint").textContent = "";
  (again === null ? $("why") : $("again")).focus();
}

function closed(event) {
  view?.end();
  const ticket = MAY_FOLLOW.has(event.code) ? follow.get() : null;
  if (ticket !== null && FOLLOWS_BY_ITSELF.has(event.code) && tries < TRIES) {
    isOpen = false;
    state("connecting", words.reconnecting);
    const wait = Math.min(250 * 2 ** tries, LONGEST_WAIT);
    tries += 1;
    setTimeout(() => connect(ticket), wait);
    return;
  }
  if (ticket === null) follow.drop();
  end(why(event.code, event.reason), ticket === null ? words.goBack : words.mayTryAgain, {
    code: event.code,
    again: ticket === null ? null : () => { tries = 0; connect(ticket); },
  });
}

async function connect(ticket) {
  $("end").hidden = true;
  if (!tries) state("connecting", words.connecting);
  let parts;
  try {
    parts = await import(kind === "serial" ? "./serial.js" : "./screen.js");
  } catch {
    end(words.noAssets, words.noAssetsWhat);
    return;
  }
  view?.clear();
  const socket = open(ticket, hear);
  socket.addEventListener("close", closed);
  view = parts.show($("screen"), socket, { open: opened, clipboard: came });
}

// --- clipboard

function showClipboard(shown) {
  $("clip").hidden = !shown;
  $("clipboard").setAttribute("aria-expanded", String(shown));
  $("note").textContent = "";
}

function came(text) {
  $("text").value = text;
  if ($("clip").hidden) state("open", words.came);
  else $("note").textContent = words.came;
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("text").value);
    $("note").textContent = words.copied;
  } catch {
    $("text").select();
    $("note").textContent = words.notCopied;
  }
}

$("clipboard").onclick = () => {
  const shown = $("clip").hidden;
  if (shown && view.selection?.()) $("text").value = view.selection();
  showClipboard(shown);
  if (shown) $("text").focus();
};
$("send").onclick = () => {
  view.paste($("text").value);
  $("note").textContent = words.sent;
};
$("type").onclick = async () => {
  $("type").disabled = true;
  $("note").textContent = "";
  $("note").textContent = (await view.type($("text").value)) ? words.typed : words.untypable;
  $("type").disabled = false;
};
$("copy").onclick = copy;
$("done").onclick = () => { showClipboard(false); $("clipboard").focus(); };

// --- the other buttons

$("reset").onclick = () => { view.reset(); view.focus(); };
$("size").onclick = () => {
  const actual = $("size").getAttribute("aria-pressed") !== "true";
  $("size").setAttribute("aria-pressed", String(actual));
  view.scale(!actual);
};
$("full").onclick = async () => {
  if (document.fullscreenElement) await document.exitFullscreen();
  else await document.documentElement.requestFullscreen();
  view.focus();
};
document.addEventListener("fullscreenchange", () => {
  $("full").setAttribute("aria-pressed", String(Boolean(document.fullscreenElement)));
});

// A touch keyboard types into a field; each letter is passed on and nothing stays there.
$("keyboard").onclick = () => $("typing").focus();
$("typing").addEventListener("beforeinput", (event) => {
  if (event.inputType === "insertCompositionText") return;
  event.preventDefault();
  if (event.inputType === "deleteContentBackward") view.type("\b");
  else if (event.inputType === "insertLineBreak" || event.inputType === "insertParagraph") view.type("\n");
  else if (event.data) view.type(event.data);
});
$("typing").addEventListener("compositionend", (event) => {
  view.type(event.data);
  $("typing").value = "";
});
$("typing").addEventListener("keydown", (event) => {
  // An empty field has nothing to delete, so no input event tells of it.
  if (event.key === "Backspace" && !event.isComposing) {
    event.preventDefault();
    view.type("\b");
  }
});

// --- without a mouse: a way out of the screen, which takes every other key, and a way back

addEventListener("keydown", (event) => {
  const inScreen = $("screen").contains(document.activeElement);
  if (inScreen && event.ctrlKey && event.altKey && event.shiftKey) {
    event.preventDefault();
    event.stopImmediatePropagation();
    view.release();
    [...$("tools").querySelectorAll("button")].find((button) => !button.hidden && !button.disabled)?.focus();
  } else if (!inScreen && isOpen && event.key === "Escape") {
    if (!$("clip").hidden) {
      showClipboard(false);
      $("clipboard").focus();
    } else {
      view.focus();
    }
    event.preventDefault();
  }
}, true);

function hint() {
  if (!isOpen) return;
  const inScreen = $("screen").contains(document.activeElement);
  $("hint").textContent = inScreen ? words.hint : words.hintEnter;
}
document.addEventListener("focusin", hint);
document.addEventListener("focusout", () => setTimeout(hint));

speak();
body.dataset.kind = kind;
title(decodeURIComponent(location.pathname.split("/").pop()));
if (kind === "serial") {
  const sheet = document.createElement("link");
  sheet.rel = "stylesheet";
  sheet.href = "static/xterm-6.0.0/css/xterm.css";
  document.head.append(sheet);
}
const ticket = ticketOfAddress();
if (ticket) connect(ticket);
else end(words.noTicket, words.noTicketWhat);
