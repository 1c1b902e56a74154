// One binary for the whole control plane, the kubelet, kube-proxy and etcd: the first
// argument names the component, the rest are that component's own flags.
package main

import (
	"context"
	"fmt"
	"net/url"
	"os"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// etcd serves one member at http://127.0.0.1:PORT from DIR. It never syncs to
// disk: the cluster lives for one test run, and fsync is what makes etcd slow.
func etcd(dir, port, peerPort string) error {
	local := func(p string) []url.URL { return []url.URL{{Scheme: "http", Host: "127.0.0.1:" + p}} }
	cfg := embed.NewConfig()
	cfg.Dir = dir
	cfg.LogLevel = "error"
	cfg.UnsafeNoFsync = true
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = local(port), local(port)
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = local(peerPort), local(peerPort)
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	return <-server.Err()
}

func run(component string, arguments []string) int {
	commands := map[string]func() *cobra.Command{
		"kube-apiserver":          apiserver.NewAPIServerCommand,
		"kube-controller-manager": controllermanager.NewControllerManagerCommand,
		"kube-proxy":              proxy.NewProxyCommand,
		"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
		"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	}
	if component == "etcd" && len(arguments) == 3 {
		fmt.Fprintln(os.Stderr, etcd(arguments[0], arguments[1], arguments[2]))
		return 1
	}
	newCommand, known := commands[component]
	if !known {
		fmt.Fprintln(os.Stderr, "usage: node etcd DIR PORT PEER_PORT | kube-apiserver | kube-controller-manager | kube-scheduler | kube-proxy | kubelet [FLAGS]")
		return 2
	}
	command := newCommand()
	command.SetArgs(arguments)
	return cli.Run(command)
}

func main() {
	if len(os.Args) < 2 {
		os.Exit(run("", nil))
	}
	os.Exit(run(os.Args[1], os.Args[2:]))
}
