// A switch's side of a call, with nothing but Go's standard library: authorize, price, debit once.
//
//	go run client.go 127.0.0.1:2001
package main

import (
	"fmt"
	"log"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"strings"
	"time"
)

// CallDescriptor is the one object that every method takes.
type CallDescriptor struct {
	TOR               int
	CstmId            string
	Subject           string
	DestinationPrefix string
	TimeStart         *time.Time `json:",omitempty"`
	TimeEnd           *time.Time `json:",omitempty"`
	Amount            float64    `json:",omitempty"`
	RequestId         string     `json:",omitempty"`
}

// CallCost is what GetCost answers; fields that are not needed may be left out.
type CallCost struct {
	DestinationPrefix string
	Cost              float64
	ConnectFee        float64
	Timespans         []struct {
		TimeStart, TimeEnd time.Time
		Cost               float64
	}
}

func main() {
	address := "127.0.0.1:2001"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	// Two steps, so that the connection itself can have a deadline; jsonrpc.Dial is the short form.
	connection, err := net.DialTimeout("tcp", address, 2*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	client := jsonrpc.NewClient(connection)
	defer client.Close()

	call := CallDescriptor{CstmId: "vdf", Subject: "rif", DestinationPrefix: "0256308200"}

	authorize := call
	authorize.Amount = 3600
	var seconds float64
	must(client.Call("Responder.GetMaxSessionTime", authorize, &seconds))
	fmt.Println("may talk, seconds:", seconds)

	start := time.Date(2012, 2, 2, 17, 30, 0, 0, time.UTC)
	end := start.Add(time.Hour)
	priced := call
	priced.TimeStart, priced.TimeEnd = &start, &end
	var cost CallCost
	must(client.Call("Responder.GetCost", priced, &cost))
	fmt.Println("cost, cents:", cost.Cost, "in", len(cost.Timespans), "spans")

	// Under a request id of its own a debit may be repeated as often as need be: it happens once.
	debit := call
	debit.Amount, debit.RequestId = 1.5, fmt.Sprintf("go-%d", time.Now().UnixNano())
	var left, again float64
	must(client.Call("Responder.DebitBalance", debit, &left))
	must(client.Call("Responder.DebitBalance", debit, &again))
	fmt.Println("repeated, the same credit is left:", left == again)

	// Many calls may be under way at once on one connection.
	calls := make([]*rpc.Call, 100)
	for i := range calls {
		calls[i] = client.Go("Responder.GetCost", priced, new(CallCost), nil)
	}
	total := 0.0
	for _, each := range calls {
		<-each.Done
		must(each.Error)
		total += each.Reply.(*CallCost).Cost
	}
	fmt.Println("100 at once, cents:", total)

	// An error is a text that begins with a name for programs.
	call.Subject = "nobody"
	call.Amount = 1
	err = client.Call("Responder.DebitBalance", call, &left)
	fmt.Println("refused:", strings.SplitN(err.Error(), ":", 2)[0])
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
