// What is in a recording's file: {kind, title, pieces: [{at, data}]}, times in seconds.

/** Read a file; throws where it is none of ccfd's. */
export function read(bytes) {
  const end = bytes.indexOf(10);
  if (end < 0) throw new Error("no first line");
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
  const rest = bytes.subarray(end + 1);
  if (head["ccfd-screen"] === 1) {
    return { kind: "screen", title: `${head.name} · ${head.slice}`, pieces: screen(rest) };
  }
  if (head.version === 2) {
    return { kind: "serial", title: head.title ?? "", pieces: cast(rest) };
  }
  throw new Error("unknown form");
}

function screen(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const pieces = [];
  // A file that was cut off ends with a part of a piece.
  for (let i = 0; i + 8 <= bytes.length; ) {
    const length = view.getUint32(i + 4);
    if (i + 8 + length > bytes.length) break;
    pieces.push({ at: view.getUint32(i) / 1000, data: bytes.subarray(i + 8, i + 8 + length) });
    i += 8 + length;
  }
  return pieces;
}

function cast(bytes) {
  const pieces = [];
  for (const line of new TextDecoder().decode(bytes).split("\n")) {
    try {
      const [at, what, data] = JSON.parse(line);
      if (what === "o") pieces.push({ at, data });
    } catch {
      break;
    }
  }
  return pieces;
}
