// A WebSocket server on `ws`: echoes, and does what a text that begins with '/' asks for.
const {WebSocketServer} = require('ws');
const server = new WebSocketServer({
  host: process.env.HOST, port: Number(process.env.PORT), maxPayload: 1 << 28,
  handleProtocols: protocols => protocols.has('echo.v2') && 'echo.v2',
});
let closed = null;
server.on('connection', (socket, request) => {
  socket.on('message', (data, binary) => {
    const text = binary ? '' : data.toString();
    if (text.startsWith('/close ')) return socket.close(Number(text.split(' ')[1]), 'as asked');
    if (text === '/reset') return socket.terminate();
    if (text === '/path') return socket.send(request.url);
    if (text === '/closed') return socket.send(JSON.stringify(closed));
    if (text === '/count') { for (let n = 0; n < 10000; n++) socket.send(String(n)); return; }
    socket.send(data, {binary});
  });
  socket.on('close', (code, reason) => { closed = [code, reason.toString()]; });
});
