// A switch's side of a call in Node.js, without packages: JSON-RPC 2.0 over one TCP connection.
//
//   node client.js 127.0.0.1:2001
"use strict";
const net = require("node:net");

/** Calls may be under way at once; replies are matched by id, in whatever order they come. */
class Ratel {
  constructor(address) {
    const [host, port] = address.split(":");
    this.waiting = new Map();
    this.lastId = 0;
    this.text = "";
    this.socket = net.connect(Number(port), host);
    this.socket.setEncoding("utf8");
    this.socket.on("data", (chunk) => this.receive(chunk));
    this.socket.on("error", (error) => this.lose(error));
    this.socket.on("close", () => this.lose(new Error("the connection is closed")));
  }

  call(method, descriptor) {
    const id = ++this.lastId;
    const message = { jsonrpc: "2.0", id, method: `Responder.${method}`, params: descriptor };
    this.socket.write(JSON.stringify(message) + "\n");
    return new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
  }

  /** Each reply is a line. */
  receive(chunk) {
    const lines = (this.text + chunk).split("\n");
    this.text = lines.pop();
    for (const line of lines.filter((each) => each.trim())) {
      const reply = JSON.parse(line);
      const { resolve, reject } = this.waiting.get(reply.id);
      this.waiting.delete(reply.id);
      if (reply.error) reject(Object.assign(new Error(reply.error.message), reply.error.data));
      else resolve(reply.result);
    }
  }

  /** What was under way is unknown: make the call again with the same RequestId. */
  lose(error) {
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }
}

async function main() {
  const ratel = new Ratel(process.argv[2] || "127.0.0.1:2001");
  const call = { CstmId: "vdf", Subject: "rif", DestinationPrefix: "0256308200" };
  const hour = { TimeStart: "2012-02-02T17:30:00Z", TimeEnd: "2012-02-02T18:30:00Z" };

  console.log("may talk, seconds:", await ratel.call("GetMaxSessionTime", { ...call, Amount: 3600 }));
  const cost = await ratel.call("GetCost", { ...call, ...hour });
  console.log("cost, cents:", cost.Cost, "in", cost.Timespans.length, "spans");

  const debit = { ...call, Amount: 1.5, RequestId: `node-${Date.now()}-${process.pid}` };
  const [left, again] = [await ratel.call("DebitBalance", debit), await ratel.call("DebitBalance", debit)];
  console.log("repeated, the same credit is left:", left === again);

  const many = Array.from({ length: 100 }, () => ratel.call("GetCost", { ...call, ...hour }));
  const total = (await Promise.all(many)).reduce((sum, each) => sum + each.Cost, 0);
  console.log("100 at once, cents:", total);

  try {
    await ratel.call("DebitBalance", { ...call, Subject: "nobody", Amount: 1 });
  } catch (error) {
    console.log("refused:", error.name);
  }
  ratel.socket.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
