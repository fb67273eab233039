// The original's design in plain C++ with blocking sockets: what our table is measured against.
//
//     g++ -O2 -std=c++17 -pthread -o yardstick yardstick.cpp
//     yardstick server ADDRESS PORT      prints "ready" once it listens; ends on SIGTERM
//     yardstick client --servers ADDRESS:PORT,ADDRESS:PORT,... [--threads 8] [--seconds 10] ...
//
// Every command, a get too, is two phases at the key's two servers in messages of 256 bytes:
// request, vote, proceed and done, from and to both. Where a lock is refused, the client aborts at
// the one that gave its own, waits for the acknowledgement, and tries again after a random time, of
// up to 0.2 ms at first and twice that with each refusal, as in our classic. A put stores a value
// where there is none. Unlike the original's, a server gives its locks back: after proceed, after
// abort, and when a connection ends.

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <map>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

enum Status : int32_t {
    REFUSED = 1,
    REQUEST = 2,
    TAKEN = 3,
    ABORT = 4,
    ABORTED = 5,
    PROCEED = 6,
    DONE = 7,
    NOTHING_DONE = 9,
};
enum Operation : int32_t { GET, PUT };

struct Message {  // sent as it lies in memory: both ends are of one kind of processor
    int32_t status, client, thread, operation, value;
    char key[236];  // ends with a NUL
};
static_assert(sizeof(Message) == 256);
constexpr int MOST_LETTERS = sizeof Message::key - 1;

[[noreturn]] void fail(const std::string& why) {
    static std::mutex first;  // of threads that fail together one speaks
    first.lock();
    std::cerr << "yardstick: " << why << std::endl;
    _exit(1);
}

bool send_message(int fd, const Message& message) {
    return send(fd, &message, sizeof message, MSG_NOSIGNAL) == ssize_t(sizeof message);
}

bool receive_message(int fd, Message& message) {
    return recv(fd, &message, sizeof message, MSG_WAITALL) == ssize_t(sizeof message);
}

template <typename Number>
Number number(const std::string& what, const std::string& text, Number least, Number most) {
    std::istringstream stream(text);
    Number value{};
    if (stream >> value && stream.peek() == EOF && value >= least && value <= most) return value;
    std::ostringstream why;
    why << what << ": " << text << " is no number from " << least << " to " << most;
    fail(why.str());
}

sockaddr_in parse(const std::string& server) {
    const size_t colon = server.rfind(':');
    sockaddr_in found{};
    found.sin_family = AF_INET;
    if (colon == std::string::npos ||
        inet_pton(AF_INET, server.substr(0, colon).c_str(), &found.sin_addr) != 1)
        fail(server + " is no IPv4 address with a port, as 10.0.0.1:8080");
    found.sin_port = htons(uint16_t(number("port", server.substr(colon + 1), 1, 65535)));
    return found;
}

int open_socket() {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) fail(std::string("socket: ") + std::strerror(errno));
    return fd;
}

void switch_on(int fd, int level, int option) {
    const int on = 1;
    setsockopt(fd, level, option, &on, sizeof on);
}

// The server: a thread a connection.

std::map<std::string, int> table;
std::mutex table_mutex;
std::array<std::mutex, 997> stripes;

void carry_out(const std::string& key, Message& message) {
    const std::lock_guard guard(table_mutex);
    bool done;
    if (message.operation == PUT) {
        done = table.emplace(key, message.value).second;
    } else {
        const auto found = table.find(key);
        done = found != table.end();
        message.value = done ? found->second : 0;
    }
    message.status = done ? DONE : NOTHING_DONE;
}

// All messages of a command come by one connection, so one thread takes a lock and gives it back.
void serve(int fd) {
    std::unique_lock<std::mutex> held;
    for (Message message; receive_message(fd, message);) {
        const std::string key(message.key, strnlen(message.key, MOST_LETTERS));
        std::mutex& stripe = stripes[std::hash<std::string>{}(key) % stripes.size()];
        const bool holds = held && held.mutex() == &stripe;
        if (message.status == REQUEST && !held) {
            held = std::unique_lock(stripe, std::try_to_lock);
            message.status = held ? TAKEN : REFUSED;
        } else if (message.status == PROCEED && holds) {
            carry_out(key, message);
            held.unlock();
        } else if (message.status == ABORT && holds) {
            held.unlock();
            message.status = ABORTED;
        } else {
            std::cerr << "yardstick: client " << message.client << " thread " << message.thread
                      << ": hung up after status " << message.status << " out of turn\n";
            break;
        }
        if (!send_message(fd, message)) break;
    }
    close(fd);
}

[[noreturn]] void run_server(const std::string& name) {
    std::signal(SIGTERM, [](int) { _exit(0); });
    const sockaddr_in own = parse(name);
    const int listener = open_socket();
    switch_on(listener, SOL_SOCKET, SO_REUSEADDR);
    if (bind(listener, reinterpret_cast<const sockaddr*>(&own), sizeof own) ||
        listen(listener, SOMAXCONN))
        fail("listen at " + name + ": " + std::strerror(errno));
    std::cout << "ready" << std::endl;
    while (true) {
        const int fd = accept(listener, nullptr, nullptr);
        if (fd < 0 && errno == ECONNABORTED) continue;
        if (fd < 0) fail(std::string("accept: ") + std::strerror(errno));
        switch_on(fd, IPPROTO_TCP, TCP_NODELAY);
        std::thread(serve, fd).detach();
    }
}

// The client: threads with a connection to every server each, and one command at a time.

enum Phase { WARMUP, COUNTED, OVER };
std::atomic<Phase> phase{WARMUP};
std::vector<std::string> servers;
int client_number, key_size, key_range;
double get_share;

struct ClientThread {
    int thread;
    std::mt19937_64 chance;
    std::vector<int> sockets{};
    // Of the commands that ended in the counted time; latencies by operation.
    std::array<std::vector<double>, 2> latencies_us{};
    uint64_t retries = 0, messages = 0;

    void connect_all() {
        for (const std::string& server : servers) {
            const sockaddr_in address = parse(server);
            const int fd = open_socket();
            if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address))
                fail("connect to " + server + ": " + std::strerror(errno));
            switch_on(fd, IPPROTO_TCP, TCP_NODELAY);
            sockets.push_back(fd);
        }
    }

    void run() {
        while (phase != OVER) {
            const Message command = next_command();
            const auto begin = std::chrono::steady_clock::now();
            uint64_t refused = 0, exchanged = 0, most_us = 200;
            while (!try_once(command, exchanged)) {
                ++refused;
                std::this_thread::sleep_for(std::chrono::microseconds(chance() % most_us));
                most_us = std::min<uint64_t>(2 * most_us, 20'000);
            }
            const std::chrono::duration<double, std::micro> took =
                std::chrono::steady_clock::now() - begin;
            if (phase != COUNTED) continue;
            latencies_us[command.operation].push_back(took.count());
            retries += refused;
            messages += exchanged;
        }
    }

    Message next_command() {
        Message command{};
        command.client = client_number;
        command.thread = thread;
        for (int i = 0; i < key_size; ++i) command.key[i] = char('a' + chance() % 26);
        command.operation = std::generate_canonical<double, 53>(chance) < get_share ? GET : PUT;
        if (command.operation == PUT) command.value = int32_t(chance() % 100);
        return command;
    }

    // Both servers of the key are told before either is listened to.
    bool try_once(const Message& command, uint64_t& exchanged) {
        const size_t bucket = std::hash<std::string>{}(command.key) % size_t(key_range);
        const size_t primary = bucket / (size_t(key_range) / servers.size()) % servers.size();
        const size_t backup = (primary + 1) % servers.size();
        tell(primary, command, REQUEST);
        tell(backup, command, REQUEST);
        const bool first = hear(primary, TAKEN, REFUSED).status == TAKEN;
        const bool second = hear(backup, TAKEN, REFUSED).status == TAKEN;
        exchanged += 4;
        if (first && second) {
            tell(primary, command, PROCEED);
            tell(backup, command, PROCEED);
            const Message one = hear(primary, DONE, NOTHING_DONE);
            const Message other = hear(backup, DONE, NOTHING_DONE);
            exchanged += 4;
            if (one.status != other.status || one.value != other.value)
                fail(std::string("key ") + command.key + ": its two servers differ");
        } else if (first || second) {
            tell(first ? primary : backup, command, ABORT);
            hear(first ? primary : backup, ABORTED, ABORTED);
            exchanged += 2;
        }
        return first && second;
    }

    void tell(size_t server, Message message, Status status) {
        message.status = status;
        if (!send_message(sockets[server], message)) fail("lost server " + servers[server]);
    }

    Message hear(size_t server, Status one, Status other) {
        Message answer;
        if (!receive_message(sockets[server], answer)) fail("lost server " + servers[server]);
        if (answer.status != one && answer.status != other)
            fail(servers[server] + " answered with status " + std::to_string(answer.status));
        return answer;
    }
};

double cpu_s() {
    rusage used;
    getrusage(RUSAGE_SELF, &used);
    const timeval &user = used.ru_utime, &system = used.ru_stime;
    return double(user.tv_sec + system.tv_sec) + double(user.tv_usec + system.tv_usec) / 1e6;
}

std::string percentiles(std::vector<double>& values) {
    std::sort(values.begin(), values.end());
    std::ostringstream json;
    for (const std::string percent : {"50", "90", "99", "99.9"}) {
        const double rank = std::ceil(std::stod(percent) * double(values.size()) / 100);
        json << (json.tellp() ? ", \"" : "{\"") << percent << "\": ";
        values.empty() ? json << "null" : json << std::lround(values[size_t(rank) - 1]);
    }
    return json.str() + "}";
}

void run_client(std::map<std::string, std::string> texts) {
    std::istringstream list(texts["--servers"]);
    for (std::string server; std::getline(list, server, ',');) servers.push_back(server);
    if (servers.size() < 2) fail("--servers: give two or more, as 10.0.0.1:8080,10.0.0.2:8080");
    const auto option = [&](const std::string& name, auto least, auto most) {
        return number(name, texts.at(name), least, most);
    };
    client_number = option("--client", 0, INT32_MAX);
    key_size = option("--key-size", 1, MOST_LETTERS);
    key_range = option("--key-range", int(servers.size()), INT32_MAX);
    get_share = option("--get-share", 0.0, 1.0);
    const int seed = option("--seed", 0, INT32_MAX);
    const std::chrono::duration<double> warmup(option("--warmup", 0.0, 3600.0));
    const std::chrono::duration<double> length(option("--seconds", 0.001, 86400.0));
    const std::chrono::duration<double> start(option("--start", 0.0, 1e11));

    std::vector<ClientThread> clients;
    for (int thread = 0; thread < option("--threads", 1, 1000); ++thread) {
        std::seed_seq seeds{seed, client_number, thread};
        clients.push_back({thread, std::mt19937_64(seeds)});
        clients.back().connect_all();
    }
    const auto wait = start - std::chrono::system_clock::now().time_since_epoch();
    if (start.count() && wait.count() < 0) fail("--start " + texts["--start"] + " is over");
    if (start.count()) std::this_thread::sleep_for(wait);
    std::vector<std::thread> threads;
    for (ClientThread& client : clients) threads.emplace_back(&ClientThread::run, &client);
    std::this_thread::sleep_for(warmup);
    const auto begin = std::chrono::steady_clock::now();
    const double cpu_before_s = cpu_s();
    phase = COUNTED;
    std::this_thread::sleep_for(length);
    phase = OVER;
    const double used_s = cpu_s() - cpu_before_s;
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    for (std::thread& thread : threads) thread.join();

    std::array<std::vector<double>, 2> latencies_us;
    uint64_t retries = 0, messages = 0;
    for (const ClientThread& client : clients) {
        for (const Operation one : {GET, PUT})
            latencies_us[one].insert(latencies_us[one].end(), client.latencies_us[one].begin(),
                                     client.latencies_us[one].end());
        retries += client.retries;
        messages += client.messages;
    }
    std::cout << "{\"seconds\": " << took.count() << ", \"gets\": " << latencies_us[GET].size()
              << ", \"puts\": " << latencies_us[PUT].size() << ", \"retries\": " << retries
              << ", \"messages\": " << messages << ", \"cpu_s\": " << used_s
              << ", \"latency_us\": {\"get\": " << percentiles(latencies_us[GET])
              << ", \"put\": " << percentiles(latencies_us[PUT]) << "}}" << std::endl;
}

int main(int count, char** words) {
    const std::vector<std::string> typed(words + 1, words + count);
    if (typed.size() == 3 && typed[0] == "server") run_server(typed[1] + ":" + typed[2]);
    if (typed.size() % 2 == 0 || typed[0] != "client")
        fail("type server ADDRESS PORT, or client --servers ADDRESS:PORT,... and its options");
    std::map<std::string, std::string> texts{
        {"--servers", ""},      {"--threads", "8"},       {"--seconds", "10"}, {"--warmup", "1"},
        {"--key-size", "4"},    {"--key-range", "10000"}, {"--client", "0"},   {"--seed", "0"},
        {"--get-share", "0.6"}, {"--start", "0"},
    };
    for (size_t i = 1; i < typed.size(); i += 2) {
        if (!texts.count(typed[i])) fail("there is no option " + typed[i]);
        texts[typed[i]] = typed[i + 1];
    }
    run_client(texts);
}
