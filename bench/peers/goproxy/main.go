// A plain proxy between WebSocket clients and NATS, as one writes it in Go: a goroutine that reads and one
// that writes for each client, one NATS subscription for each client and for each room it joined. It speaks
// as much of signal.v1 as the benchmarks need: HELLO, TO, FROM, SUB, UNSUB, PUB, MSG, OK, ERR.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base32"
	"flag"
	"log"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nats.go"
)

const (
	peerPrefix = "signal.peer."
	roomPrefix = "signal.room."
	backlog    = 256              // messages waiting for one client; NATS drops what does not fit
	pingEvery  = 25 * time.Second // and a client is gone that is silent for pongWait
	pongWait   = 35 * time.Second
	writeWait  = 10 * time.Second
	maxMessage = 64 * 1024
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
	inbox chan *nats.Msg                // what NATS has for it
	reply chan []byte                   // what the reader answers
	done  chan struct{}                 // closed when the reader ends
	gone  chan struct{}                 // closed when the writer ends
	rooms map[string]*nats.Subscription // the reader's
}

var upgrader = websocket.Upgrader{
	ReadBufferSize:  1024,
	WriteBufferSize: 1024,
	Subprotocols:    []string{"signal.v1"},
	CheckOrigin:     func(*http.Request) bool { return true },
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	c := &client{
		server: s, ws: ws,
		peer:  s.node + "." + strconv.FormatUint(atomic.AddUint64(&s.last, 1), 36),
		inbox: make(chan *nats.Msg, backlog),
		reply: make(chan []byte, 16),
		done:  make(chan struct{}),
		gone:  make(chan struct{}),
		rooms: make(map[string]*nats.Subscription),
	}
	own, err := s.nc.ChanSubscribe(peerPrefix+c.peer, c.inbox)
	if err != nil {
		ws.Close()
		return
	}
	go c.write()
	go c.read(own)
}

// read handles what the client says until it goes away, then cleans up.
func (c *client) read(own *nats.Subscription) {
	defer func() {
		own.Unsubscribe()
		for _, sub := range c.rooms {
			sub.Unsubscribe()
		}
		close(c.done)
		c.ws.Close()
	}()
	c.ws.SetReadLimit(maxMessage + 512)
	c.ws.SetReadDeadline(time.Now().Add(pongWait))
	c.ws.SetPongHandler(func(string) error { return c.ws.SetReadDeadline(time.Now().Add(pongWait)) })
	c.reply <- []byte("HELLO " + c.peer + "\n" + `{"node":"` + c.node + `","version":"go"}`)
	for {
		kind, data, err := c.ws.ReadMessage()
		if err != nil {
			return
		}
		answer := c.handle(kind, data)
		if answer == "" {
			continue
		}
		select {
		case c.reply <- []byte(answer):
		case <-c.gone:
			return
		}
	}
}

// handle does what one message asks for, and returns the answer if there is one.
func (c *client) handle(kind int, data []byte) string {
	head, payload := data, []byte(nil)
	if lf := bytes.IndexByte(data, '\n'); lf >= 0 {
		head, payload = data[:lf], data[lf+1:]
	}
	words := strings.Split(string(head), " ")
	if len(words) < 2 {
		return "ERR bad-request"
	}
	ref := refOf(words[2:])
	var err error
	switch words[0] {
	case "TO":
		err = c.publish(peerPrefix+words[1], kind, payload)
	case "PUB":
		err = c.publish(roomPrefix+words[1], kind, payload)
	case "SUB":
		err = c.join(words[1])
	case "UNSUB":
		err = c.leave(words[1])
	default:
		return "ERR bad-request"
	}
	if err != nil {
		return "ERR unavailable"
	}
	if ref != "" {
		return "OK " + ref
	}
	return ""
}

func refOf(options []string) string {
	for _, option := range options {
		if strings.HasPrefix(option, "ref=") {
			return option[4:]
		}
	}
	return ""
}

func (c *client) publish(subject string, kind int, payload []byte) error {
	msg := nats.Msg{Subject: subject, Data: payload, Header: nats.Header{"Signal-From": {c.peer}}}
	if kind == websocket.BinaryMessage {
		msg.Header["Signal-Type"] = []string{"binary"}
	}
	return c.nc.PublishMsg(&msg)
}

func (c *client) join(room string) error {
	if c.rooms[room] != nil {
		return nil
	}
	sub, err := c.nc.ChanSubscribe(roomPrefix+room, c.inbox)
	if err != nil {
		return err
	}
	c.rooms[room] = sub
	return c.nc.Flush()
}

func (c *client) leave(room string) error {
	sub := c.rooms[room]
	delete(c.rooms, room)
	if sub == nil {
		return nil
	}
	return sub.Unsubscribe()
}

// write sends the client what NATS and the reader have for it, and pings.
func (c *client) write() {
	ticker := time.NewTicker(pingEvery)
	defer func() {
		ticker.Stop()
		close(c.gone)
		c.ws.Close()
	}()
	for {
		var err error
		select {
		case msg := <-c.inbox:
			err = c.deliver(msg)
		case text := <-c.reply:
			c.ws.SetWriteDeadline(time.Now().Add(writeWait))
			err = c.ws.WriteMessage(websocket.TextMessage, text)
		case <-ticker.C:
			err = c.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeWait))
		case <-c.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// deliver writes one message of NATS's: FROM from a peer, MSG from a room unless it is the client's own.
func (c *client) deliver(msg *nats.Msg) error {
	from, head, kind := "-", "", websocket.TextMessage
	if values := msg.Header["Signal-From"]; len(values) > 0 {
		from = values[0]
	}
	if strings.HasPrefix(msg.Subject, roomPrefix) {
		if from == c.peer {
			return nil
		}
		head = "MSG " + msg.Subject[len(roomPrefix):] + " " + from + "\n"
	} else {
		head = "FROM " + from + "\n"
	}
	if len(msg.Header["Signal-Type"]) > 0 {
		kind = websocket.BinaryMessage
	}
	c.ws.SetWriteDeadline(time.Now().Add(writeWait))
	w, err := c.ws.NextWriter(kind)
	if err != nil {
		return err
	}
	w.Write([]byte(head))
	w.Write(msg.Data)
	return w.Close()
}

func randomNode() string {
	var bits [5]byte
	if _, err := rand.Read(bits[:]); err != nil {
		log.Fatal(err)
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(bits[:]))
}

func main() {
	listen := flag.String("listen", "127.0.0.1:9002", "host:port")
	url := flag.String("nats", nats.DefaultURL, "the NATS server")
	flag.Parse()
	nc, err := nats.Connect(*url, nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	s := &server{nc: nc, node: randomNode()}
	log.Fatal(http.ListenAndServe(*listen, s))
}
