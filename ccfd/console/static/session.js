// A console's connection: a ticket opens it once; what it is about comes as its first message.
//
// With the subprotocol `ccfd` the server sends text beside the binary frames that noVNC or the
// terminal reads. The first says whose console it is, and brings the ticket with which this
// session, should it be lost, can be taken up again.

const KEY = "ccfd-again:" + location.pathname + new URLSearchParams(location.search).get("type");

/** Take the ticket out of the address, where it would stay in the history. */
export function ticketOfAddress() {
  const query = new URLSearchParams(location.search);
  const ticket = query.get("ticket");
  query.delete("ticket");
  const rest = query.toString();
  history.replaceState(null, "", location.pathname + (rest ? "?" + rest : ""));
  // A page that is loaded again goes on with the session that it had.
  return ticket ?? sessionStorage.getItem(KEY);
}

/** The ticket with which a lost session can be taken up again, or null. */
export const follow = {
  get: () => sessionStorage.getItem(KEY),
  set: (ticket) => sessionStorage.setItem(KEY, ticket),
  drop: () => sessionStorage.removeItem(KEY),
};

/** Open the websocket. `about` is told what the session is; only then bytes follow. */
export function open(ticket, about) {
  const address = new URL("ws", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  address.search = new URLSearchParams({ ticket });
  address.hash = "";
  const socket = new WebSocket(address, ["ccfd", "binary"]);
  socket.binaryType = "arraybuffer";
  // Registered first, so noVNC is never shown text.
  socket.addEventListener("message", (event) => {
    if (typeof event.data === "string") {
      event.stopImmediatePropagation();
      about(JSON.parse(event.data));
    }
  });
  return socket;
}
