// A proxy between WebSocket clients and NATS: for each client a goroutine that reads and one that writes, and one NATS
// subscription for the client and for each room that it joined. It speaks as much of signal.v1 as the benchmarks need:
// HELLO, TO, FROM, SUB with OK, PUB, MSG, ERR.
//
// On NATS a message is its payload, with the headers of signal.v1 for the sender and for binary. Nothing is allocated
// for a message but its subject, and by nats.go and gorilla. Buffers come from pools, so an idle client holds none.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"flag"
	"log"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nats.go"
)

const (
	peerPrefix = "signal.peer."
	roomPrefix = "signal.room."
	backlog    = 64               // messages waiting for one client; NATS drops more
	answers    = 4                // waiting for one client; then it is not read
	pingEvery  = 25 * time.Second // and a client that is silent for pongWait is closed
	pongWait   = 35 * time.Second
	writeWait  = 10 * time.Second
	maxMessage = 64*1024 + 512 // with the head
)

type server struct {
	nc   *nats.Conn
	node string
	last uint64 // the latest client's number
}

type client struct {
	*server
	ws    *websocket.Conn
	peer  string                        // its address
	text  nats.Header                   // of what it publishes
	bin   nats.Header                   // the same of binary messages
	inbox chan *nats.Msg                // from NATS
	reply chan string                   // from the reader
	done  chan struct{}                 // closed when the reader ends
	gone  chan struct{}                 // closed when the writer ends
	rooms map[string]*nats.Subscription // the reader's; nil until it joins one
}

var (
	space, newline = []byte{' '}, []byte{'\n'}

	buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }} // a message each

	upgrader = websocket.Upgrader{
		ReadBufferSize:  1024,
		WriteBufferSize: 1024,
		WriteBufferPool: new(sync.Pool),
		Subprotocols:    []string{"signal.v1"},
		CheckOrigin:     func(*http.Request) bool { return true },
	}
)

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	peer := s.node + "." + strconv.FormatUint(atomic.AddUint64(&s.last, 1), 36)
	c := &client{
		server: s, ws: ws, peer: peer,
		text:  nats.Header{"Signal-From": {peer}},
		bin:   nats.Header{"Signal-From": {peer}, "Signal-Type": {"binary"}},
		inbox: make(chan *nats.Msg, backlog),
		reply: make(chan string, answers),
		done:  make(chan struct{}),
		gone:  make(chan struct{}),
	}
	own, err := s.nc.ChanSubscribe(peerPrefix+peer, c.inbox)
	if err != nil {
		ws.Close()
		return
	}
	go c.write()
	go c.read(own)
}

// read handles what the client sends until it is closed, then cleans up.
func (c *client) read(own *nats.Subscription) {
	defer func() {
		own.Unsubscribe()
		for _, sub := range c.rooms {
			sub.Unsubscribe()
		}
		close(c.done)
		c.ws.Close()
	}()
	c.ws.SetReadLimit(maxMessage)
	c.ws.SetReadDeadline(time.Now().Add(pongWait))
	c.ws.SetPongHandler(func(string) error { return c.ws.SetReadDeadline(time.Now().Add(pongWait)) })
	c.reply <- "HELLO " + c.peer + "\n" + `{"node":"` + c.node + `","version":"go"}`
	for {
		answer, err := c.next()
		if err != nil {
			return
		}
		if answer == "" {
			continue
		}
		select {
		case c.reply <- answer:
		case <-c.gone:
			return
		}
	}
}

// next reads and handles one message, and returns the answer if there is one.
func (c *client) next() (string, error) {
	kind, r, err := c.ws.NextReader()
	if err != nil {
		return "", err
	}
	buf := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buf)
	buf.Reset()
	if _, err := buf.ReadFrom(r); err != nil {
		return "", err
	}
	return c.handle(kind, buf.Bytes()), nil
}

// handle keeps nothing of data.
func (c *client) handle(kind int, data []byte) string {
	head, payload, _ := bytes.Cut(data, newline)
	verb, rest, _ := bytes.Cut(head, space)
	name, options, _ := bytes.Cut(rest, space)
	if !isName(name) {
		return "ERR bad-request"
	}
	var err error
	answer := ""
	switch string(verb) {
	case "TO":
		err = c.publish(peerPrefix+string(name), kind, payload)
	case "PUB":
		err = c.publish(roomPrefix+string(name), kind, payload)
	case "SUB":
		err = c.join(string(name))
		if bytes.HasPrefix(options, []byte("ref=")) {
			answer = "OK " + string(options[len("ref="):])
		}
	default:
		return "ERR bad-request"
	}
	if err != nil {
		return "ERR unavailable"
	}
	return answer
}

// isName tells whether a name may be part of a subject: it has no separator or wildcard of NATS.
func isName(name []byte) bool {
	for _, b := range name {
		if b <= ' ' || b > '~' || b == '*' || b == '>' {
			return false
		}
	}
	return len(name) > 0
}

// publish copies the payload: nats.go gathers what is published and sends it together.
func (c *client) publish(subject string, kind int, payload []byte) error {
	header := c.text
	if kind == websocket.BinaryMessage {
		header = c.bin
	}
	return c.nc.PublishMsg(&nats.Msg{Subject: subject, Header: header, Data: payload})
}

func (c *client) join(room string) error {
	if c.rooms[room] != nil {
		return nil
	}
	sub, err := c.nc.ChanSubscribe(roomPrefix+room, c.inbox)
	if err != nil {
		return err
	}
	if c.rooms == nil {
		c.rooms = make(map[string]*nats.Subscription)
	}
	c.rooms[room] = sub
	return c.nc.Flush()
}

// write sends what comes from NATS and from the reader, and pings. Each write has at least writeWait.
func (c *client) write() {
	ticker := time.NewTicker(pingEvery)
	defer func() {
		ticker.Stop()
		close(c.gone)
		c.ws.Close()
	}()
	c.ws.SetWriteDeadline(time.Now().Add(pingEvery + writeWait))
	for {
		var err error
		select {
		case msg := <-c.inbox:
			err = c.deliver(msg)
			for n := len(c.inbox); n > 0 && err == nil; n-- { // only this goroutine takes from it
				err = c.deliver(<-c.inbox)
			}
		case text := <-c.reply:
			err = c.ws.WriteMessage(websocket.TextMessage, []byte(text))
		case now := <-ticker.C:
			c.ws.SetWriteDeadline(now.Add(pingEvery + writeWait))
			err = c.ws.WriteControl(websocket.PingMessage, nil, now.Add(writeWait))
		case <-c.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// deliver writes one message from NATS: FROM from a peer, MSG from a room unless the client sent it.
func (c *client) deliver(msg *nats.Msg) error {
	kind, from, inRoom := websocket.TextMessage, "-", strings.HasPrefix(msg.Subject, roomPrefix)
	if sender := msg.Header.Get("Signal-From"); sender != "" {
		from = sender
	}
	if inRoom && from == c.peer {
		return nil
	}
	if msg.Header.Get("Signal-Type") == "binary" {
		kind = websocket.BinaryMessage
	}
	buf := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buf)
	buf.Reset()
	if inRoom {
		buf.WriteString("MSG ")
		buf.WriteString(msg.Subject[len(roomPrefix):])
		buf.WriteByte(' ')
	} else {
		buf.WriteString("FROM ")
	}
	buf.WriteString(from)
	buf.WriteByte('\n')
	buf.Write(msg.Data)
	return c.ws.WriteMessage(kind, buf.Bytes()) // one frame, whatever its size
}

func main() {
	listen := flag.String("listen", "127.0.0.1:9002", "host:port")
	url := flag.String("nats", nats.DefaultURL, "the NATS server")
	flag.Parse()
	nc, err := nats.Connect(*url, nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	var node [4]byte
	if _, err := rand.Read(node[:]); err != nil {
		log.Fatal(err)
	}
	handler := &server{nc: nc, node: hex.EncodeToString(node[:])}
	web := http.Server{Addr: *listen, Handler: handler, ReadHeaderTimeout: writeWait}
	log.Fatal(web.ListenAndServe())
}
