// Command go-http serves HTTP with Go's own net/http on the listener that it is given. Nothing in it is special but
// where the listener comes from.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

func main() {
	listener, err := inherited()
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello from Go")
	})
	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(w, r.Body); err != nil {
			log.Print(err)
		}
	})
	http.HandleFunc("/sleep", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(100 * time.Millisecond)
		fmt.Fprintln(w, "slept")
	})
	fmt.Println("serving")
	log.Fatal(http.Serve(listener, nil))
}

// candidates keeps what was looked at: a file that nobody holds is closed, and some of them are directories.
var candidates []*os.File

// inherited finds the first of LISTEN_FDS listeners: it follows standard input, output, error and the directories.
func inherited() (net.Listener, error) {
	if count, err := strconv.Atoi(os.Getenv("LISTEN_FDS")); err != nil || count < 1 {
		return nil, fmt.Errorf("no listener: LISTEN_FDS is %q", os.Getenv("LISTEN_FDS"))
	}
	for fd := uintptr(3); fd < 64; fd++ {
		file := os.NewFile(fd, "listener")
		if file == nil {
			break
		}
		candidates = append(candidates, file)
		if listener, err := net.FileListener(file); err == nil {
			return listener, nil
		}
	}
	return nil, fmt.Errorf("no descriptor is a listener")
}
