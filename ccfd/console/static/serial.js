// A VM's serial console: xterm.js, 80 columns and 24 lines, as large as the window allows.

import { Terminal } from "./xterm-6.0.0/lib/xterm.mjs";

const COLUMNS = 80;
const LINES = 24;
const SMALLEST = 7;
const LARGEST = 20;

export function show(element, socket, on) {
  const terminal = new Terminal({
    cols: COLUMNS,
    rows: LINES,
    scrollback: 10000,
    fontFamily: 'ui-monospace, "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", "Noto Sans Mono CJK SC", monospace',
    fontSize: 14,
    screenReaderMode: false,
    theme: { background: "#0f1114", foreground: "#e4e7eb", cursor: "#8fc7a4" },
  });
  terminal.open(element);
  const fit = () => {
    const drawn = element.querySelector(".xterm-screen");
    if (!drawn || !drawn.clientWidth) return;
    const style = getComputedStyle(element);
    const width = element.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - 14;
    const height = element.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
    const scale = Math.min(width / drawn.clientWidth, height / drawn.clientHeight);
    const size = Math.floor(terminal.options.fontSize * scale);
    const wanted = Math.max(SMALLEST, Math.min(LARGEST, size));
    if (wanted !== terminal.options.fontSize) terminal.options.fontSize = wanted;
  };
  const observer = new ResizeObserver(fit);
  observer.observe(element);
  fit();

  const encoder = new TextEncoder();
  let only = false;
  const send = (data) => {
    if (!only && socket.readyState === WebSocket.OPEN) socket.send(encoder.encode(data));
  };
  terminal.onData(send);
  terminal.onBinary((data) => {
    if (!only && socket.readyState === WebSocket.OPEN) {
      socket.send(Uint8Array.from(data, (character) => character.charCodeAt(0)));
    }
  });
  socket.addEventListener("message", (event) => terminal.write(new Uint8Array(event.data)));
  socket.addEventListener("open", () => on.open());

  return {
    focus: () => terminal.focus(),
    viewOnly: (yes) => {
      only = yes;
      terminal.options.disableStdin = yes;
    },
    label: (text) => terminal.textarea.setAttribute("aria-label", text),
    release: () => terminal.blur(),
    type: async (text) => {
      terminal.paste(text);
      return true;
    },
    selection: () => terminal.getSelection(),
    end: () => observer.disconnect(),
    clear: () => {
      terminal.dispose();
      element.replaceChildren();
    },
  };
}
