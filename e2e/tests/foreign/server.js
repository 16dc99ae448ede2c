// An HTTP/1.1 server on Node that closes idle connections soon (Node adds up to a second of its own), and counts each POST
// that it gets.
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
    // Saying it ourselves keeps Node from announcing its limit, which a pool would respect.
    if (process.env.SILENT) response.setHeader('Connection', 'keep-alive');
    response.end('ok');
  });
});
server.keepAliveTimeout = 250;
server.listen(Number(process.env.PORT), process.env.HOST);
