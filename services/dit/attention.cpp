// Attention in bfloat16 on a CPU that multiplies pairs of them (AVX-512 BF16), for heads of 128.
//
// Block by block, with a running maximum and sum of each row, so that no more than a tile's scores are ever
// there. torch's kernel does the same through a library's products, which cost it more than half of the time
// where there is no AMX. Results do not depend on the number of threads: blocks of keys begin at multiples of
// their size, and a row takes nothing from a block that it does not see. Only a value that is not finite
// reaches all rows of the tiles that see its block.

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <vector>

namespace {

using Bfloat16 = uint16_t;
using Pair = uint32_t;  // two that one instruction multiplies and adds

constexpr int kLanes = 16;  // 32-bit numbers of a vector
constexpr int kHead = 128;  // numbers of a head
constexpr int kKeys = 128;  // keys of a block: with their values 64 KiB, which stay in the cache
constexpr int kTileRows = 6;  // queries of a tile: with kVectors the sums that fill the registers
constexpr int kVectors = 4;
constexpr int kMostTokens = 192;  // those whose queries share a packed block of keys, or a half, a quarter
constexpr int kLeastTokens = 24;
static_assert(kHead % (kVectors * kLanes) == 0 && kKeys % (kVectors * kLanes) == 0);
static_assert(kLeastTokens % kTileRows == 0, "the tiles are the same for all numbers of tokens");
constexpr float kLowest = -std::numeric_limits<float>::infinity();

using Sums = __m512[kTileRows][kVectors];

// Adds products of [kTileRows][pairs] with [pairs][kVectors * kLanes], whose pairs are `stride` apart.
template <int kPairs>
inline void multiply(const Pair (&rows)[kTileRows][kPairs], const Pair* columns, int stride, Sums& sums) {
    for (int pair = 0; pair < kPairs; ++pair) {
        __m512bh vectors[kVectors];
        for (int v = 0; v < kVectors; ++v)
            vectors[v] = (__m512bh)_mm512_loadu_si512(columns + pair * stride + v * kLanes);
        for (int r = 0; r < kTileRows; ++r) {
            const __m512bh number = (__m512bh)_mm512_set1_epi32(rows[r][pair]);
            for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], number, vectors[v]);
        }
    }
}

// 2^x to 6e-5 of it, for x that is not large: what is made of it has 8 bits.
inline __m512 power_of_two(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(x, whole);
    __m512 power = _mm512_set1_ps(0.00961813f);  // ln(2)^4 / 4!, and so on
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(0.05550411f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(0.24022651f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(0.69314718f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(power, whole);
}

// Swaps rows and columns of 16 x 16.
inline void transpose(__m512i (&rows)[kLanes]) {
    __m512i half[kLanes];
    for (int i = 0; i < 16; i += 2) {
        half[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        half[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        rows[i] = _mm512_unpacklo_epi64(half[i], half[i + 2]);
        rows[i + 1] = _mm512_unpackhi_epi64(half[i], half[i + 2]);
        rows[i + 2] = _mm512_unpacklo_epi64(half[i + 1], half[i + 3]);
        rows[i + 3] = _mm512_unpackhi_epi64(half[i + 1], half[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        half[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
        half[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
        half[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
        half[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; ++i) {
        rows[i] = _mm512_shuffle_i32x4(half[i], half[i + 8], 0x88);
        rows[i + 8] = _mm512_shuffle_i32x4(half[i], half[i + 8], 0xdd);
    }
}

// Keys [count][kHead], `stride` apart, to [kHead / 2 pairs][kKeys]; zeros where there are none.
void pack_keys(const Bfloat16* keys, long stride, int count, Pair* packed) {
    for (int key = 0; key < kKeys; key += kLanes)
        for (int pair = 0; pair < kHead / 2; pair += kLanes) {
            __m512i rows[kLanes];
            for (int i = 0; i < kLanes; ++i)
                rows[i] = key + i < count ? _mm512_loadu_si512(keys + (key + i) * stride + 2 * pair)
                                          : _mm512_setzero_si512();
            transpose(rows);
            for (int i = 0; i < kLanes; ++i) _mm512_storeu_si512(packed + (pair + i) * kKeys + key, rows[i]);
        }
}

// Values [count][kHead], `stride` apart, to [kKeys / 2 pairs][kHead]; zeros where there are none.
void pack_values(const Bfloat16* values, long stride, int count, Pair* packed) {
    const auto load = [=](int key, int at) {
        if (key >= count) return _mm512_setzero_si512();
        return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(values + key * stride + at)));
    };
    for (int key = 0; key < kKeys; key += 2)
        for (int at = 0; at < kHead; at += kLanes) {
            const __m512i pairs = _mm512_or_si512(load(key, at), _mm512_slli_epi32(load(key + 1, at), 16));
            _mm512_storeu_si512(packed + key / 2 * kHead + at, pairs);
        }
}

// What is known of a block's queries so far, a row for each.
struct Queries {
    std::unique_ptr<float[]> sums;  // [rows][kHead], of values weighted by 2^(score - highest)
    std::unique_ptr<float[]> highest, total;  // of scores, and of those weights

    explicit Queries(long count)
        : sums(new float[count * kHead]), highest(new float[count]), total(new float[count]) {}

    void clear(long count) {
        std::fill_n(sums.get(), count * kHead, 0.0f);
        std::fill_n(highest.get(), count, kLowest);
        std::fill_n(total.get(), count, 0.0f);
    }

    // The mean of the values, as the weights have it.
    void store(long row, Bfloat16* result) const {
        const __m512 inverse = _mm512_set1_ps(1.0f / total[row]);
        const auto mean = [&](int at) {
            return _mm512_mul_ps(inverse, _mm512_loadu_ps(&sums[row * kHead + at]));
        };
        for (int at = 0; at < kHead; at += 2 * kLanes)
            _mm512_storeu_si512(result + at, (__m512i)_mm512_cvtne2ps_pbh(mean(at + kLanes), mean(at)));
    }
};

// The keys of a block that a row sees: from `first` to before `last`.
struct Seen {
    int first, last;

    bool is_any() const { return first < last; }

    // Which of the lanes from `key` on.
    __mmask16 lanes(int key) const {
        const __m512i at = _mm512_add_epi32(
            _mm512_set1_epi32(key), _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
        return _mm512_cmpge_epi32_mask(at, _mm512_set1_epi32(first)) &
               _mm512_cmplt_epi32_mask(at, _mm512_set1_epi32(last));
    }
};

// Makes weights of the scores of one row, and fits what is known of it to their maximum.
void weigh(const float* scores, float factor, Seen seen, Queries& queries, long row, Pair* weights) {
    __m512 most = _mm512_set1_ps(kLowest);
    for (int key = 0; key < kKeys; key += kLanes)
        most = _mm512_mask_max_ps(most, seen.lanes(key), most, _mm512_load_ps(scores + key));
    const float before = queries.highest[row];
    const float highest = std::max(before, _mm512_reduce_max_ps(most) * factor);
    const auto weight = [=](int key) {
        const __m512 score = _mm512_load_ps(scores + key);
        const __m512 power = _mm512_fmsub_ps(score, _mm512_set1_ps(factor), _mm512_set1_ps(highest));
        return _mm512_maskz_mov_ps(seen.lanes(key), power_of_two(power));
    };
    __m512 total = _mm512_setzero_ps();
    for (int key = 0; key < kKeys; key += 2 * kLanes) {
        const __m512 low = weight(key), high = weight(key + kLanes);
        total = _mm512_add_ps(total, _mm512_add_ps(low, high));
        _mm512_store_si512(weights + key / 2, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
    const float shrunk = std::exp2(before - highest);
    queries.highest[row] = highest;
    queries.total[row] = queries.total[row] * shrunk + _mm512_reduce_add_ps(total);
    if (shrunk == 1.0f) return;
    float* sums = &queries.sums[row * kHead];
    for (int at = 0; at < kHead; at += kLanes)
        _mm512_storeu_ps(sums + at, _mm512_mul_ps(_mm512_set1_ps(shrunk), _mm512_loadu_ps(sums + at)));
}

// A tile of queries, those from `row` on, with their numbers, against a block of keys and values.
void attend_tile(
    const Bfloat16* const (&numbers)[kTileRows], const Pair* keys, const Pair* values, float factor,
    const Seen (&seen)[kTileRows], Queries& queries, long row) {
    alignas(64) Pair gathered[kTileRows][kHead / 2];
    alignas(64) float scores[kTileRows][kKeys];
    alignas(64) Pair weights[kTileRows][kKeys / 2];
    for (int r = 0; r < kTileRows; ++r) std::memcpy(gathered[r], numbers[r], sizeof gathered[r]);
    for (int key = 0; key < kKeys; key += kVectors * kLanes) {
        Sums sums;
        for (auto& of_row : sums) std::fill(std::begin(of_row), std::end(of_row), _mm512_setzero_ps());
        multiply(gathered, keys + key, kKeys, sums);
        for (int r = 0; r < kTileRows; ++r)
            for (int v = 0; v < kVectors; ++v) _mm512_store_ps(&scores[r][key + v * kLanes], sums[r][v]);
    }
    for (int r = 0; r < kTileRows; ++r) {
        if (seen[r].is_any())
            weigh(scores[r], factor, seen[r], queries, row + r, weights[r]);
        else
            std::memset(weights[r], 0, sizeof weights[r]);
    }
    for (int at = 0; at < kHead; at += kVectors * kLanes) {
        float* const first = &queries.sums[row * kHead + at];
        Sums sums;
        for (int r = 0; r < kTileRows; ++r)
            for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_loadu_ps(first + r * kHead + v * kLanes);
        multiply(weights, values + at, kHead, sums);
        for (int r = 0; r < kTileRows; ++r)
            for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(first + r * kHead + v * kLanes, sums[r][v]);
    }
}

// The tensors of a call, as `attention` has them.
struct Call {
    const Bfloat16 *queries, *keys, *values;
    Bfloat16* result;
    long query_count, key_count, heads, key_heads;
    float factor;  // from scores to powers of two
    long width;

    long group() const { return heads / key_heads; }

    // The keys of the block at `key`, of `count`, that a token sees.
    Seen seen_by(long token, long key, int count) const {
        if (width < 0) return {0, count};
        return {(int)std::max(0L, token - width - key), (int)std::min<long>(count, token + width + 1 - key)};
    }
};

// What a thread needs for its work.
struct Scratch {
    std::unique_ptr<Pair[]> keys, values;
    Queries queries;

    explicit Scratch(long query_count)
        : keys(new Pair[kHead / 2 * kKeys]), values(new Pair[kKeys / 2 * kHead]), queries(query_count) {}
};

// The queries of the tokens from `start` to before `stop`, of all heads that share the keys of `key_head`.
void attend_block(const Call& call, long item, long key_head, long start, long stop, Scratch& scratch) {
    // A row is a token's query of one head.
    const long group = call.group(), row_count = (stop - start) * group;
    const long padded_count = (row_count + kTileRows - 1) / kTileRows * kTileRows;
    const auto token_of = [=](long row) { return start + row / group; };
    const auto head_at = [&](long row) {
        const long head = key_head * group + row % group;
        return ((item * call.query_count + token_of(row)) * call.heads + head) * kHead;
    };
    Queries& queries = scratch.queries;
    queries.clear(padded_count);
    const bool sees_all = call.width < 0;
    const long first_key = sees_all ? 0 : std::max(0L, start - call.width) / kKeys * kKeys;
    const long last_key = sees_all ? call.key_count : std::min(call.key_count, stop + call.width);
    const long stride = call.key_heads * kHead;
    for (long key = first_key; key < last_key; key += kKeys) {
        const int count = (int)std::min<long>(kKeys, call.key_count - key);
        const long at = (item * call.key_count + key) * stride + key_head * kHead;
        pack_keys(call.keys + at, stride, count, scratch.keys.get());
        pack_values(call.values + at, stride, count, scratch.values.get());
        for (long row = 0; row < row_count; row += kTileRows) {
            const Bfloat16* numbers[kTileRows];
            Seen seen[kTileRows];
            bool is_any_seen = false;
            for (int r = 0; r < kTileRows; ++r) {
                const long repeated = std::min(row + r, row_count - 1);  // the last one fills its tile
                numbers[r] = call.queries + head_at(repeated);
                seen[r] = call.seen_by(token_of(repeated), key, count);
                is_any_seen |= seen[r].is_any();
            }
            if (is_any_seen)
                attend_tile(
                    numbers, scratch.keys.get(), scratch.values.get(), call.factor, seen, queries, row);
        }
    }
    for (long row = 0; row < row_count; ++row) queries.store(row, call.result + head_at(row));
}

}  // namespace

// All tensors are dense: [items][tokens][heads][kHead], with `key_heads` heads for keys and values, of which
// each serves `heads / key_heads` of the queries' in a row. A query sees the keys that are at most `width`
// tokens away, or all where `width` is negative. Returns whether there was memory for it.
extern "C" bool attention(
    const Bfloat16* queries, const Bfloat16* keys, const Bfloat16* values, Bfloat16* result, long items,
    long query_count, long key_count, long heads, long key_heads, float scale, long width, int threads) {
    const float factor = scale * 1.44269504f;  // log2(e)
    const Call call{
        queries, keys, values, result, query_count, key_count, heads, key_heads, factor, width};
    long tokens = kMostTokens;
    const auto blocks = [&] { return (query_count + tokens - 1) / tokens; };
    const auto too_few = [&] { return items * key_heads * blocks() < 4L * threads; };
    while (tokens > kLeastTokens && (tokens / 2 >= query_count || too_few())) tokens /= 2;
    const long block_count = blocks();
    std::vector<Scratch> scratch;
    try {
        for (int thread = 0; thread < threads; ++thread) scratch.emplace_back(tokens * call.group());
    } catch (const std::bad_alloc&) {
        return false;
    }
#pragma omp parallel for schedule(dynamic) collapse(3) num_threads(threads)
    for (long item = 0; item < items; ++item)
        for (long key_head = 0; key_head < key_heads; ++key_head)
            for (long block = 0; block < block_count; ++block) {
                const long start = block * tokens, stop = std::min(query_count, start + tokens);
                attend_block(call, item, key_head, start, stop, scratch[omp_get_thread_num()]);
            }
    return true;
}
