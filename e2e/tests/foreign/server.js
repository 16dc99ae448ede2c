// An HTTP/1.1 server on Node that closes idle connections after a quarter of a second, and counts each POST that it gets.
const http = require('http');
const posts = new Map();
const server = http.createServer((request, response) => {
  const chunks = [];
  request.on('data', chunk => chunks.push(chunk));
  request.on('end', () => {
    const body = Buffer.concat(chunks).toString();
    if (request.method === 'POST') posts.set(body, (posts.get(body) || 0) + 1);
    if (request.url === '/count') {
      return response.end(JSON.stringify({different: posts.size, all: [...posts.values()].reduce((a, b) => a + b, 0)}));
    }
    response.end('ok');
  });
});
server.keepAliveTimeout = 250;
server.keepAliveTimeoutBuffer = 0;
server.listen(Number(process.env.PORT), process.env.HOST);
