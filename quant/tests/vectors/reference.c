// Answers quantisation requests with ggml's reference quantisers; see README.md for how to build it.
//
// Request on stdin, native endianness: int64 type, rows, cols, weighted; rows*cols floats; cols floats of importance
// if `weighted`. Answer on stdout: the quantised rows, then what they expand to as rows*cols floats.
//
// With arguments `bench TYPE ROWS COLS WEIGHTED` it prints the weights per second of one thread instead.
#include "ggml.h"
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void quantize_row_q8_K_ref(const float *x, void *y, int64_t k);
void dequantize_row_q8_K(const void *x, float *y, int64_t k);

static void quantize(int type, const float *x, int64_t rows, int64_t cols, const float *importance, uint8_t *out) {
    const size_t row_size = ggml_row_size((enum ggml_type)type, cols);
    if (type == GGML_TYPE_Q8_K) {
        for (int64_t r = 0; r < rows; r++) quantize_row_q8_K_ref(x + r * cols, out + r * row_size, cols);
    } else {
        ggml_quantize_chunk((enum ggml_type)type, x, out, 0, rows, cols, importance);
    }
}

static void must(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "reference: %s\n", what);
        exit(1);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int bench(char **argv) {
    const int type = atoi(argv[2]);
    const int64_t rows = atoll(argv[3]), cols = atoll(argv[4]);
    float *x = malloc(rows * cols * sizeof(float)), *importance = malloc(cols * sizeof(float));
    uint8_t *out = malloc(rows * ggml_row_size((enum ggml_type)type, cols));
    uint32_t state = 1;
    for (int64_t i = 0; i < rows * cols; i++) {
        float sum = 0;
        for (int k = 0; k < 4; k++) {
            state = state * 1664525u + 1013904223u;
            sum += (state >> 8) / 16777216.0f - 0.5f;
        }
        x[i] = sum * 0.04f;
    }
    for (int64_t i = 0; i < cols; i++) {
        state = state * 1664525u + 1013904223u;
        importance[i] = powf((state >> 8) / 16777216.0f, 2);
    }
    double best = 1e30;
    for (int rep = 0; rep < 7; rep++) {
        const double start = now();
        quantize(type, x, rows, cols, atoi(argv[5]) ? importance : NULL, out);
        const double t = now() - start;
        if (t < best) best = t;
    }
    printf("%.3f\n", rows * cols / best * 1e-6);
    return 0;
}

int main(int argc, char **argv) {
    struct ggml_init_params params = {1024 * 1024, NULL, 0};
    ggml_free(ggml_init(params)); // fills the library's f16 table
    if (argc == 6 && strcmp(argv[1], "bench") == 0) return bench(argv);
    int64_t head[4];
    while (fread(head, sizeof head, 1, stdin) == 1) {
        const int64_t n = head[1] * head[2];
        const size_t bytes = head[1] * ggml_row_size((enum ggml_type)head[0], head[2]);
        float *x = malloc(n * sizeof(float)), *importance = malloc(head[2] * sizeof(float));
        uint8_t *out = calloc(bytes, 1);
        must(fread(x, sizeof(float), n, stdin) == (size_t)n, "short request");
        if (head[3]) must(fread(importance, sizeof(float), head[2], stdin) == (size_t)head[2], "short importance");
        quantize((int)head[0], x, head[1], head[2], head[3] ? importance : NULL, out);
        must(fwrite(out, 1, bytes, stdout) == bytes, "write failed");
        if (head[0] == GGML_TYPE_F32) memcpy(x, out, bytes);
        else if (head[0] == GGML_TYPE_Q8_K) dequantize_row_q8_K(out, x, n);
        else ggml_get_type_traits((enum ggml_type)head[0])->to_float(out, x, n);
        must(fwrite(x, sizeof(float), n, stdout) == (size_t)n, "write failed");
        fflush(stdout);
        free(x), free(importance), free(out);
    }
    return 0;
}
