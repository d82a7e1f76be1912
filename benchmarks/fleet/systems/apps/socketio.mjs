// Socket.IO on node: what one client sends goes to all, or to every room when clients name topics.
import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http);
const rooms = new Set();
io.on("connection", (socket) => {
  const { topic } = socket.handshake.query;
  if (topic) {
    rooms.add(topic);
    socket.join(topic);
  }
  socket.on("message", (data) => {
    if (rooms.size === 0) io.emit("message", data);
    for (const room of rooms) io.to(room).emit("message", data);
  });
});
http.listen({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096 });
