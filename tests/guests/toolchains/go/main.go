// An HTTP server with Go's own net/http on a listener that the host has opened (GOOS=wasip1): GET / says who answers,
// POST /echo sends the body back. It ends when the listener is closed.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
)

const (
	descriptorFirst = 3
	descriptorsMax  = 64
)

// findListener returns the first pre-opened listener: they come after the pre-opened directories.
func findListener() (net.Listener, error) {
	var last error
	for descriptor := descriptorFirst; descriptor < descriptorsMax; descriptor++ {
		file := os.NewFile(uintptr(descriptor), "listener")
		if file == nil {
			continue
		}
		listener, err := net.FileListener(file)
		if err == nil {
			fmt.Println("listening on descriptor", descriptor)
			return listener, nil
		}
		last = err
	}
	return nil, fmt.Errorf("no listener was given: %w", last)
}

func hello(response http.ResponseWriter, request *http.Request) {
	if request.URL.Path != "/" {
		http.NotFound(response, request)
		return
	}
	fmt.Fprintf(response, "hello from go at %s\n", os.Getenv("POD_NAME"))
}

func echo(response http.ResponseWriter, request *http.Request) {
	response.Header().Set("Content-Length", strconv.FormatInt(request.ContentLength, 10))
	// Both directions at once: a large body does not fit into what lies between.
	http.NewResponseController(response).EnableFullDuplex()
	if _, err := io.Copy(response, request.Body); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
	}
}

func main() {
	listener, err := findListener()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	http.HandleFunc("/", hello)
	http.HandleFunc("POST /echo", echo)
	fmt.Println("no more connections:", http.Serve(listener, nil))
}
