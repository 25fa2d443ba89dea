/* ModSecurity 3 over the requests on standard input, for the bench: modsecurity CONFIGURATION ROUNDS
 *
 * A request is: method, target, count of headers, names and values in turn, body. Texts come with their length before
 * them; counts and lengths are 32 bits, little endian. Prints the CPU microseconds of a transaction (phases 1 and 2, the
 * best round's mean) and one digit for each request: 1 was refused. As connectors do, it stops at the first refusal. */
#include <modsecurity/modsecurity.h>
#include <modsecurity/rules_set.h>
#include <modsecurity/transaction.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct text {
    unsigned char *bytes; /* ends with a NUL that `length` does not count */
    uint32_t length;
};

struct header {
    struct text name, value;
};

struct request {
    struct text method, target, body;
    struct header *headers;
    uint32_t count;
};

static void fail(const char *why) {
    fprintf(stderr, "modsecurity: %s\n", why);
    exit(1);
}

static void *grown(void *old, size_t size) {
    void *block = realloc(old, size ? size : 1);
    if (!block) fail("out of memory");
    return block;
}

static int read_number(uint32_t *number) {
    unsigned char b[4];
    size_t count = fread(b, 1, 4, stdin);
    if (count == 0) return 0;
    if (count != 4) fail("the input is cut short");
    *number = b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    return 1;
}

static int read_text(struct text *text) {
    if (!read_number(&text->length)) return 0;
    text->bytes = grown(NULL, (size_t)text->length + 1);
    if (fread(text->bytes, 1, text->length, stdin) != text->length) fail("the input is cut short");
    text->bytes[text->length] = 0;
    return 1;
}

static int read_request(struct request *request) {
    if (!read_text(&request->method)) return 0;
    if (!read_text(&request->target) || !read_number(&request->count)) fail("the input is cut short");
    request->headers = grown(NULL, request->count * sizeof *request->headers);
    for (uint32_t i = 0; i < request->count; i++)
        if (!read_text(&request->headers[i].name) || !read_text(&request->headers[i].value)) fail("the input is cut short");
    if (!read_text(&request->body)) fail("the input is cut short");
    return 1;
}

static int is_refused(Transaction *transaction) {
    ModSecurityIntervention found = {.status = 200, .url = NULL, .log = NULL, .disruptive = 0};
    int refused = msc_intervention(transaction, &found) && found.disruptive;
    free(found.url);
    free(found.log);
    return refused;
}

/* Phases 1 and 2 of one request. */
static int judge(ModSecurity *engine, RulesSet *rules, const struct request *request) {
    Transaction *transaction = msc_new_transaction(engine, rules, NULL);
    msc_process_connection(transaction, "203.0.113.7", 40000, "192.0.2.1", 443);
    msc_process_uri(transaction, (char *)request->target.bytes, (char *)request->method.bytes, "1.1");
    int refused = is_refused(transaction);
    for (uint32_t i = 0; i < request->count; i++) {
        const struct header *header = &request->headers[i];
        msc_add_n_request_header(transaction, header->name.bytes, header->name.length, header->value.bytes, header->value.length);
    }
    if (!refused) {
        msc_process_request_headers(transaction);
        refused = is_refused(transaction);
    }
    if (!refused) {
        if (request->body.length) msc_append_request_body(transaction, request->body.bytes, request->body.length);
        msc_process_request_body(transaction);
        refused = is_refused(transaction);
    }
    msc_transaction_cleanup(transaction);
    return refused;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static void be_silent(void *data, const void *message) {
    (void)data;
    (void)message;
}

int main(int count, char **words) {
    if (count != 3) fail("usage: modsecurity CONFIGURATION ROUNDS");
    const char *error = NULL;
    ModSecurity *engine = msc_init();
    msc_set_log_cb(engine, be_silent);
    RulesSet *rules = msc_create_rules_set();
    if (msc_rules_add_file(rules, words[1], &error) < 0) fail(error ? error : "the rules do not load");
    struct request *requests = NULL;
    size_t length = 0;
    for (struct request next; read_request(&next);) {
        requests = grown(requests, (length + 1) * sizeof *requests);
        requests[length++] = next;
    }
    if (!length) fail("no requests");
    char *verdicts = grown(NULL, length + 1);
    verdicts[length] = 0;
    double best = 0;
    for (int round = 0, rounds = atoi(words[2]); round <= rounds; round++) {
        double start = now();
        for (size_t i = 0; i < length; i++) verdicts[i] = judge(engine, rules, &requests[i]) ? '1' : '0';
        double mean = (now() - start) / length;
        /* The first round fills caches; alone it counts only when no other is wanted. */
        if (round == 0 ? rounds == 0 : best == 0 || mean < best) best = mean;
    }
    printf("%.3f\n%s\n", best, verdicts);
    return 0;
}
