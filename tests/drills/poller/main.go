// Poller is a client that calls as Flyte's executor does, and counts what fails.
//
// It is configured as the executor's plugin configures its connection: round robin, a ping every 30 seconds while calls
// run, a deadline of ten seconds for each call, no retry policy, and no waiting for a connection: a call fails at once
// if there is none. It creates jobs (and deletes some), polls them in turn, and asks for some polls over connections of their own, at fixed
// rates. It ends at SIGTERM or after -seconds, finishes the calls in flight, and prints one line of JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

const service = "/flyteidl2.connector.AsyncConnectorService/"

// the executor gives a task up after more failed polls than this, counted over its whole life
const maxFailures = 5

var (
	target   = flag.String("target", "", "a gRPC target (dns:///NAME:PORT), or addresses with commas between them")
	policy   = flag.String("policy", "round_robin", "how connections are chosen: round_robin or pick_first")
	taskType = flag.String("task-type", "drilled", "the task type of the jobs")
	meta     = flag.String("meta", "", "poll this resource meta, and create no jobs to poll")
	prefix   = flag.String("prefix", "poller", "the names of the jobs begin with this")
	jobs     = flag.Int("jobs", 40, "jobs that are polled in turn")
	polls    = flag.Float64("polls", 20, "polls a second")
	creates  = flag.Float64("creates", 0, "jobs that are created, a second, beside those that are polled")
	repeats  = flag.Bool("repeats", false, "send each create again, as an executor does that was restarted meanwhile")
	deletes  = flag.Bool("deletes", false, "delete each job of -creates once it is created")
	fresh    = flag.Float64("fresh", 0, "polls a second over connections of their own")
	deadline = flag.Duration("deadline", 10*time.Second, "of each call")
	answered = flag.Duration("connect", 20*time.Second, "the time that a server has to answer a new connection")
	seconds  = flag.Float64("seconds", 0, "end after this time; 0 goes on until SIGTERM")
)

// bytesCodec passes encoded messages on as they are, under the name of protobuf's codec.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(message any) ([]byte, error) { return message.([]byte), nil }

func (bytesCodec) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// field encodes a field of text, bytes or a message.
func field(number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
}

// fields joins fields, or whole messages.
func fields(parts ...[]byte) []byte {
	var all []byte
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// createRequest is a CreateTaskRequest for the job of this name.
func createRequest(name string) []byte {
	execution := fields(field(1, []byte("drills")), field(2, []byte("test")), field(4, []byte(name)))
	node := fields(field(1, []byte("n0")), field(2, execution))
	return fields(
		field(2, field(2, []byte(*taskType))),
		field(3, []byte("file:///tmp/drills/"+name)),
		field(4, field(1, field(2, node))),
	)
}

// pollRequest is a GetTaskRequest for the job with this resource meta. A DeleteTaskRequest has the same fields.
func pollRequest(meta []byte) []byte {
	return fields(field(2, meta), field(3, field(1, []byte(*taskType))))
}

// resourceMeta is field 1 of a CreateTaskResponse.
func resourceMeta(response []byte) ([]byte, error) {
	for len(response) > 0 {
		number, kind, size := protowire.ConsumeTag(response)
		if size < 0 {
			return nil, protowire.ParseError(size)
		}
		response = response[size:]
		if number == 1 && kind == protowire.BytesType {
			value, size := protowire.ConsumeBytes(response)
			return value, protowire.ParseError(size)
		}
		if size = protowire.ConsumeFieldValue(number, kind, response); size < 0 {
			return nil, protowire.ParseError(size)
		}
		response = response[size:]
	}
	return nil, errors.New("the answer to CreateTask has no resource_meta")
}

// Counts of the calls of one kind. Times are in seconds since the poller began.
type counts struct {
	mutex        sync.Mutex
	Calls        int            `json:"calls"`
	OK           int            `json:"ok"`
	Failed       map[string]int `json:"failed"`
	Errors       []string       `json:"errors"`
	FirstFailure *float64       `json:"first_failure"`
	LastFailure  *float64       `json:"last_failure"`
	Slowest      float64        `json:"slowest"`
}

var began = time.Now()

// call makes one call and counts it. It returns what the server has answered.
func (c *counts) call(connection *grpc.ClientConn, method string, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), *deadline)
	defer cancel()
	var response []byte
	sent := time.Now()
	err := connection.Invoke(ctx, service+method, request, &response, grpc.ForceCodec(bytesCodec{}))
	c.count(sent, err)
	return response, err
}

func (c *counts) count(sent time.Time, err error) {
	now := time.Now()
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.Calls++
	c.Slowest = max(c.Slowest, now.Sub(sent).Seconds())
	if err == nil {
		c.OK++
		return
	}
	code, at := status.Code(err).String(), now.Sub(began).Seconds()
	if c.Failed[code]++; c.Failed[code] == 1 {
		c.Errors = append(c.Errors, err.Error())
	}
	if c.FirstFailure == nil {
		c.FirstFailure = &at
	}
	c.LastFailure = &at
}

func newCounts() *counts { return &counts{Failed: map[string]int{}, Errors: []string{}} }

// connect opens a connection as the executor's plugin does. It fails only for a target that cannot be one.
func connect(policy string) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(fmt.Sprintf(`{"loadBalancingConfig": [{%q: {}}]}`, policy)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: *answered}),
	}
	if strings.Contains(*target, "://") {
		return grpc.NewClient(*target, options...)
	}
	var state resolver.State
	for _, address := range strings.Split(*target, ",") {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: address})
	}
	list := manual.NewBuilderWithScheme("list")
	list.InitialState(state)
	return grpc.NewClient("list:///hosts", append(options, grpc.WithResolvers(list))...)
}

// wait returns after this time, or false if the poller has to end.
func wait(ctx context.Context, duration time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(duration):
		return true
	}
}

// atRate starts work so often until it has to end, and returns when all of it is done.
func atRate(ctx context.Context, rate float64, work func(number int)) {
	var running sync.WaitGroup
	defer running.Wait()
	if rate <= 0 {
		return
	}
	start := time.Now()
	for number := 0; wait(ctx, time.Until(start.Add(time.Duration(float64(number)/rate*float64(time.Second))))); number++ {
		running.Go(func() { work(number) })
	}
}

// job is one of those that are polled.
type job struct {
	meta   []byte
	mutex  sync.Mutex
	failed int
}

// prepare returns the jobs to poll, once the host has answered for each of them.
func prepare(ctx context.Context, connection *grpc.ClientConn) ([]*job, error) {
	method, found := "GetTask", make([]*job, *jobs)
	if *meta == "" {
		method = "CreateTask"
	}
	for number := range found {
		request := pollRequest([]byte(*meta))
		if *meta == "" {
			request = createRequest(fmt.Sprintf("%s-polled-%d", *prefix, number))
		}
		unnoticed := newCounts()
		for {
			response, err := unnoticed.call(connection, method, request)
			if err == nil {
				found[number] = &job{meta: []byte(*meta)}
				if *meta == "" {
					if found[number].meta, err = resourceMeta(response); err != nil {
						return nil, err
					}
				}
				break
			}
			if status.Code(err) != codes.Unavailable || !wait(ctx, 50*time.Millisecond) {
				return nil, err
			}
		}
	}
	return found, nil
}

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	connection, err := connect(*policy)
	if err != nil {
		return err
	}
	defer connection.Close()
	polled, err := prepare(ctx, connection)
	if err != nil {
		return err
	}
	began = time.Now()
	fmt.Println(`{"event": "begun"}`)
	if *seconds > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*seconds*float64(time.Second)))
		defer cancel()
	}
	countedPolls, countedCreates, countedDeletes, countedFresh := newCounts(), newCounts(), newCounts(), newCounts()
	// the job of each name; a second job for one name is a duplicate
	var mutex sync.Mutex
	created, duplicates := map[string]string{}, 0
	create := func(name string) {
		response, err := countedCreates.call(connection, "CreateTask", createRequest(name))
		if err != nil {
			return
		}
		made, err := resourceMeta(response)
		mutex.Lock()
		defer mutex.Unlock()
		if err != nil || created[name] != "" && created[name] != string(made) {
			duplicates++
		}
		created[name] = string(made)
	}
	var all sync.WaitGroup
	all.Go(func() {
		atRate(ctx, *polls, func(number int) {
			each := polled[number%len(polled)]
			if _, err := countedPolls.call(connection, "GetTask", pollRequest(each.meta)); err != nil {
				each.mutex.Lock()
				each.failed++
				each.mutex.Unlock()
			}
		})
	})
	all.Go(func() {
		atRate(ctx, *creates, func(number int) {
			name := fmt.Sprintf("%s-%d", *prefix, number)
			create(name)
			if *repeats {
				create(name)
			}
			mutex.Lock()
			made := created[name]
			mutex.Unlock()
			if *deletes && made != "" {
				countedDeletes.call(connection, "DeleteTask", pollRequest([]byte(made)))
			}
		})
	})
	all.Go(func() {
		atRate(ctx, *fresh, func(number int) {
			own, err := connect("pick_first")
			if err != nil {
				countedFresh.count(time.Now(), err)
				return
			}
			defer own.Close()
			countedFresh.call(own, "GetTask", pollRequest(polled[number%len(polled)].meta))
		})
	})
	all.Wait()
	lost, worst := 0, 0
	for _, each := range polled {
		worst = max(worst, each.failed)
		if each.failed > maxFailures {
			lost++
		}
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"event":      "result",
		"seconds":    time.Since(began).Seconds(),
		"polls":      countedPolls,
		"creates":    countedCreates,
		"deletes":    countedDeletes,
		"fresh":      countedFresh,
		"created":    len(created),
		"duplicates": duplicates,
		"jobs":       len(polled),
		"jobs_lost":  lost,
		"worst_job":  worst,
	})
}
