// A VM's screen: noVNC on a websocket that is ours, so that the close code is seen.

import RFB from "./novnc-1.7.0/core/rfb.js";
import keysyms from "./novnc-1.7.0/core/input/keysymdef.js";

const RETURN = 0xff0d;
const TAB = 0xff09;
const BACKSPACE = 0xff08;
const SHIFT = 0xffe1;
const NAMED = { "\n": RETURN, "\r": RETURN, "\t": TAB, "\b": BACKSPACE };
// QEMU takes a letter's keysym for the key alone: the shift that its layout (US) needs comes with it.
// A VM's keyboard controller holds 16 bytes: what comes faster than the VM reads is lost.
const PAUSE = 20;
const SHIFTED = /^[A-Z~!@#$%^&*()_+{}|:"<>?]$/;

export function show(element, socket, on) {
  const rfb = new RFB(element, socket);
  rfb.background = "transparent";
  rfb.scaleViewport = true;
  rfb.addEventListener("connect", () => on.open());
  rfb.addEventListener("clipboard", (event) => on.clipboard(event.detail.text));
  const canvas = element.querySelector("canvas");
  canvas.tabIndex = 0;

  return {
    focus: () => rfb.focus(),
    viewOnly: (only) => { rfb.viewOnly = only; },
    label: (text) => {
      canvas.setAttribute("role", "application");
      canvas.setAttribute("aria-label", text);
    },
    /** Let go of keys that are held, before the focus moves on. */
    release: () => {
      const only = rfb.viewOnly;
      rfb.viewOnly = true;
      rfb.viewOnly = only;
      rfb.blur();
    },
    reset: () => rfb.sendCtrlAltDel(),
    paste: (text) => rfb.clipboardPasteFrom(text),
    scale: (scaled) => {
      rfb.scaleViewport = scaled;
      rfb.clipViewport = !scaled;
      rfb.dragViewport = !scaled && matchMedia("(pointer: coarse)").matches;
    },
    /** Type text as keys; tell whether all of it could be. */
    type: async (text) => {
      let whole = true;
      for (const character of text) {
        const code = character.codePointAt(0);
        const key = NAMED[character] ?? keysyms.lookup(code);
        if (!key || code > 0xff) {
          whole = false;
          continue;
        }
        const shifted = SHIFTED.test(character);
        if (shifted) rfb.sendKey(SHIFT, "ShiftLeft", true);
        rfb.sendKey(key, null);
        if (shifted) rfb.sendKey(SHIFT, "ShiftLeft", false);
        if (text.length > 1) await new Promise((done) => setTimeout(done, PAUSE));
      }
      return whole;
    },
    end: () => {},
    clear: () => { element.replaceChildren(); },
  };
}
