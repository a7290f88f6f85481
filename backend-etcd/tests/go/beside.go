// A Go program that finds and offers instances by etcd's official naming package.
//
// beside ENDPOINT SERVICE LEAVE-FILE: offers SERVICE/go-1, prints what the gRPC resolver resolves
// SERVICE to whenever that changes, and withdraws its own when LEAVE-FILE is there.
package main

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/naming/endpoints"
	"go.etcd.io/etcd/clientv3/naming/resolver"
	gresolver "google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
)

func main() {
	endpoint, service, leaveFile := os.Args[1], os.Args[2], os.Args[3]
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}})
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()

	builder, err := resolver.NewBuilder(client)
	check(err)
	// This version of the package takes the target as a bare prefix: without the slash it would
	// find services whose names only start the same.
	_, err = builder.Build(gresolver.Target{Scheme: "etcd", Endpoint: service + "/"}, printer{},
		gresolver.BuildOptions{})
	check(err)

	manager, err := endpoints.NewManager(client, service)
	check(err)
	lease, err := client.Grant(ctx, 60)
	check(err)
	own := service + "/go-1"
	offer := endpoints.Endpoint{
		Addr:     "192.0.2.9:9090",
		Metadata: map[string]interface{}{"version": "go"},
	}
	check(manager.AddEndpoint(ctx, own, offer, clientv3.WithLease(lease.ID)))
	for {
		if _, err := os.Stat(leaveFile); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	check(manager.DeleteEndpoint(ctx, own))
	<-ctx.Done()
}

// printer stands in for a gRPC channel.
type printer struct{}

func (printer) UpdateState(state gresolver.State) {
	var texts []string
	for _, address := range state.Addresses {
		texts = append(texts, fmt.Sprintf("%s %v", address.Addr, address.Metadata))
	}
	sort.Strings(texts)
	fmt.Printf("resolved [%s]\n", strings.Join(texts, ", "))
}

func (printer) ReportError(err error) { fmt.Println("error", err) }

func (printer) NewAddress([]gresolver.Address) {}

func (printer) NewServiceConfig(string) {}

func (printer) ParseServiceConfig(string) *serviceconfig.ParseResult { return nil }

func check(err error) {
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}
