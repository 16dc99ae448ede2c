// An HTTP/2 server without TLS on Node: says what it received, sends `/bytes/N`, adds a trailer at `/trailer`.
const http2 = require('http2');
const server = http2.createServer();
server.on('stream', (stream, headers) => {
  let length = 0;
  stream.on('error', () => {});
  stream.on('data', chunk => { length += chunk.length; });
  stream.on('end', () => {
    const [, what, size] = headers[':path'].split('/');
    if (what === 'trailer') {
      stream.respond({':status': 200}, {waitForTrailers: true});
      stream.on('wantTrailers', () => stream.sendTrailers({'x-last': 'yes'}));
      return stream.end('with a trailer');
    }
    stream.respond({':status': 200, 'x-version': '2'});
    if (what === 'bytes') return stream.end(Buffer.alloc(Number(size), 'x'));
    stream.end(JSON.stringify({method: headers[':method'], path: headers[':path'], length}));
  });
});
server.listen(Number(process.env.PORT), process.env.HOST);
