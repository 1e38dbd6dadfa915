// decode_nms for the CPU in C++: one pass over the logits, then candidates best first.
//
// Matches ops/decode_nms_reference.py, which says what is computed; ops/decode_nms_native.py calls
// this and says how the arrays lie in memory. Knows neither Python nor PyTorch.
//
// Greedy NMS per class followed by the best D over the classes is the same as taking all candidates
// in the order of their scores, dropping each that a kept one of its class overlaps, until D are
// kept. So only as many candidates are ordered, decoded and compared as the D detections need.
//
// Scores and exponentials are computed in double and rounded once, as the reference does it.
// Nothing depends on the vector width: no contraction to FMA (-ffp-contract=off), sums in eight
// fixed lanes.
//
// 8,732 boxes of 91 classes, 464 candidates, one core of an AMD EPYC (avx512): 59 us to find the
// rows that can hold candidates, 70 us for the exponentials of 431 of them; 240 us in all, NumPy
// 1,200.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <new>
#include <vector>

// One version of the two hot loops per vector width, chosen when the library is loaded.
#if defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EACH_VECTOR_WIDTH __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_VECTOR_WIDTH
#endif

namespace {

constexpr int kLanes = 8;                   // doubles in the widest vectors
constexpr size_t kFirstLook = 4;            // candidates put in order first, per detection wanted
constexpr size_t kLookFurther = 4;          // times as many where NMS leaves too few of them
constexpr float kMaxLogScale = 4.1351666f;  // log(1000 / 16): ssd_core.box_coder.MAX_LOG_SCALE

struct Box {
    float x1, y1, x2, y2;
};

struct Kept {
    Box box;
    float area;
    int64_t previous;  // of the same class; -1: none
};

struct Workspace {
    std::vector<uint64_t> keys;  // of all candidates
    std::vector<float> row;      // logits of one default box, padded to whole vectors
    std::vector<double> weight;  // their exponentials
    std::vector<Kept> kept;
    std::vector<int64_t> last_kept;  // by class
    std::vector<int64_t> seen;       // candidates so far, by class
};

inline float to_float(float value) { return value; }

inline float to_float(uint16_t bf16) {
    const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// exp(x) for x <= 0 or NaN, to within 1 ulp; 0 below -708. Cody and Waite's reduction by multiples
// of ln 2, then the Taylor series to the 13th power, whose rest is below 2^-57 for |r| <= ln 2 / 2.
inline double exp_not_above_one(double x) {
    constexpr double kLog2E = 1.44269504088896340736;
    constexpr double kLn2High = 6.93147180369123816490e-01;  // 32 bits: exact times any exponent
    constexpr double kLn2Low = 1.90821492927058770002e-10;
    constexpr double kToInteger = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
    const double clamped = x < -708.0 ? -708.0 : x;    // NaN stays
    const double shifted = clamped * kLog2E + kToInteger;
    const double n = shifted - kToInteger;
    const double r = (clamped - n * kLn2High) - n * kLn2Low;
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r * r + r + 1.0;
    // The low bits of `shifted` are n in two's complement: move them into the exponent.
    uint64_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits <<= 52;
    uint64_t result;
    std::memcpy(&result, &p, sizeof result);
    result += bits;
    double scaled;
    std::memcpy(&scaled, &result, sizeof scaled);
    return x < -708.0 ? 0.0 : (x != x ? x : scaled);
}

// Whether a class of the row may be above the threshold; never false where one is. NaN is above
// nothing. For softmax `base` is the background's logit: p_c > t needs x_c - x_0 > logit(t).
template <typename Logit>
inline bool any_above(const Logit* row, int64_t classes, float base, float bound) {
    int above = 0;
    for (int64_t c = 1; c < classes; ++c) above |= to_float(row[c]) - base > bound;
    return above != 0;
}

template <typename Logit>
inline void scan_rows(const Logit* logits, int64_t boxes, int64_t classes, bool softmax,
                      float bound, uint8_t* hit) {
    for (int64_t box = 0; box < boxes; ++box) {
        const Logit* row = logits + box * classes;
        hit[box] = any_above(row, classes, softmax ? to_float(row[0]) : 0.0f, bound);
    }
}

FOR_EACH_VECTOR_WIDTH
void scan(const float* logits, int64_t boxes, int64_t classes, bool softmax, float bound,
          uint8_t* hit) {
    scan_rows(logits, boxes, classes, softmax, bound, hit);
}

FOR_EACH_VECTOR_WIDTH
void scan(const uint16_t* logits, int64_t boxes, int64_t classes, bool softmax, float bound,
          uint8_t* hit) {
    scan_rows(logits, boxes, classes, softmax, bound, hit);
}

// exp(x - max x) of a row that is padded to whole lanes with -inf; returns their sum, NaN for a row
// with NaN or +inf in it.
FOR_EACH_VECTOR_WIDTH
double exponentials(const float* row, int64_t padded, double* weight) {
    float highest[kLanes];
    std::memcpy(highest, row, sizeof highest);
    for (int64_t c = kLanes; c < padded; c += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
            highest[lane] = row[c + lane] > highest[lane] ? row[c + lane] : highest[lane];
        }
    }
    const double shift = *std::max_element(highest, highest + kLanes);
    for (int64_t c = 0; c < padded; ++c) {
        weight[c] = exp_not_above_one(static_cast<double>(row[c]) - shift);
    }
    double lanes[kLanes] = {};
    for (int64_t c = 0; c < padded; c += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += weight[c + lane];
    }
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
           ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

// Candidates as keys: the bits of the score above the inverted index of (class, default box).
// Scores are positive, so that the bits sort as they do, and no two keys are equal.
inline uint64_t make_key(float score, int64_t index) {
    return static_cast<uint64_t>(bits_of(score)) << 32 |
           (0xFFFFFFFFu - static_cast<uint32_t>(index));
}

// Appends the candidates of one image, as the reference's first step finds them.
template <typename Logit>
void find_candidates(const Logit* logits, int64_t boxes, int64_t classes, bool softmax,
                     float threshold, float bound, const uint8_t* hit, Workspace& work) {
    const int64_t padded = (classes + kLanes - 1) / kLanes * kLanes;
    work.row.assign(padded, -std::numeric_limits<float>::infinity());
    work.weight.resize(padded);
    float* row = work.row.data();
    double* weight = work.weight.data();
    std::vector<uint64_t>& keys = work.keys;
    size_t found = 0;
    for (int64_t box = 0; box < boxes; ++box) {
        if (!hit[box]) continue;
        for (int64_t c = 0; c < classes; ++c) row[c] = to_float(logits[box * classes + c]);
        if (keys.size() < found + classes) keys.resize(std::max(2 * keys.size(), found + classes));
        double sum = 0.0, least = 0.0;
        if (softmax) {
            sum = exponentials(row, padded, weight);
            least = sum * threshold * (1 - 1e-6);  // saves most divisions; NaN lets nothing pass
        }
        for (int64_t c = 1; c < classes; ++c) {
            if (!(softmax ? weight[c] >= least : row[c] > bound)) continue;
            const double exact =
                softmax ? weight[c] / sum : 1.0 / (1.0 + std::exp(-static_cast<double>(row[c])));
            const float score = static_cast<float>(exact);
            keys[found] = make_key(score, (c - 1) * boxes + box);
            found += score > threshold && std::isfinite(row[c]);
        }
    }
    keys.resize(found);
}

// Puts the best of keys[begin:], at least `wanted` if there are so many, in order at its front;
// returns where they end.
size_t order_best(std::vector<uint64_t>& keys, size_t begin, size_t wanted) {
    const auto first = keys.begin() + begin;
    auto last = keys.end();
    if (keys.size() - begin > wanted) {
        last = first + wanted;
        std::nth_element(first, last, keys.end(), std::greater<>());
    }
    std::sort(first, last, std::greater<>());
    return last - keys.begin();
}

// torch.clamp(min=0, max=1): NaN stays.
inline float clip(float edge) { return edge < 0.0f ? 0.0f : (edge > 1.0f ? 1.0f : edge); }

inline float scale(float offset) {  // NaN stays
    return static_cast<float>(std::exp(double{offset > kMaxLogScale ? kMaxLogScale : offset}));
}

template <typename Offset>
inline Box decode(const Offset* offsets, const float* default_box_cxcywh, const float* weights) {
    const float width = default_box_cxcywh[2], height = default_box_cxcywh[3];
    const float x = to_float(offsets[0]) / weights[0] * width + default_box_cxcywh[0];
    const float y = to_float(offsets[1]) / weights[1] * height + default_box_cxcywh[1];
    const float half_width = scale(to_float(offsets[2]) / weights[2]) * width / 2;
    const float half_height = scale(to_float(offsets[3]) / weights[3]) * height / 2;
    return {clip(x - half_width), clip(y - half_height), clip(x + half_width),
            clip(y + half_height)};
}

inline float area_of(const Box& box) {
    return std::max(box.x2 - box.x1, 0.0f) * std::max(box.y2 - box.y1, 0.0f);
}

inline float iou(const Kept& a, const Kept& b) {  // NaN, above no threshold, without area
    const float width = std::min(a.box.x2, b.box.x2) - std::max(a.box.x1, b.box.x1);
    const float height = std::min(a.box.y2, b.box.y2) - std::max(a.box.y1, b.box.y1);
    const float intersection = std::max(width, 0.0f) * std::max(height, 0.0f);
    return intersection / (a.area + b.area - intersection);
}

}  // namespace

extern "C" {

struct DecodeNmsSettings {
    int32_t softmax;  // else sigmoid
    float score_threshold;
    float bound;  // of a logit, for softmax above the background's: below it no score is above
    float iou_threshold;
    int64_t candidates_per_class;
    int64_t max_detections;
    float box_weights[4];
};

struct DecodeNmsOutputs {  // of one image, zeros before
    float* boxes;
    float* scores;
    int64_t* labels;
    int64_t* count;
};
}

namespace {

template <typename Offset>
void keep_best(const Offset* offsets, const float* default_boxes_cxcywh, int64_t boxes,
               int64_t classes, const DecodeNmsSettings& settings, const DecodeNmsOutputs& out,
               Workspace& work) {
    const size_t most = settings.max_detections;
    std::vector<uint64_t>& keys = work.keys;
    std::vector<Kept>& kept = work.kept;
    kept.clear();
    work.last_kept.assign(classes, -1);
    work.seen.assign(classes, 0);
    size_t look_at = kFirstLook * most, ordered = 0;
    for (size_t i = 0; i < keys.size() && kept.size() < most; ++i) {
        if (i == ordered) {
            ordered = order_best(keys, i, look_at);
            look_at *= kLookFurther;
        }
        const int64_t index = 0xFFFFFFFFu - static_cast<uint32_t>(keys[i]);
        const int64_t label = index / boxes, box = index % boxes;
        if (++work.seen[label] > settings.candidates_per_class) continue;
        Kept candidate{
            decode(offsets + box * 4, default_boxes_cxcywh + box * 4, settings.box_weights), 0.0f,
            work.last_kept[label]};
        const Box& edges = candidate.box;
        const float sum = edges.x1 + edges.y1 + edges.x2 + edges.y2;
        if (std::isnan(sum)) continue;
        candidate.area = area_of(edges);
        int64_t other = candidate.previous;
        while (other >= 0 && !(iou(kept[other], candidate) > settings.iou_threshold)) {
            other = kept[other].previous;
        }
        if (other >= 0) continue;
        const size_t place = kept.size();
        const uint32_t score_bits = static_cast<uint32_t>(keys[i] >> 32);
        std::memcpy(out.boxes + place * 4, &edges, sizeof edges);
        std::memcpy(out.scores + place, &score_bits, sizeof score_bits);
        out.labels[place] = label + 1;
        work.last_kept[label] = static_cast<int64_t>(place);
        kept.push_back(candidate);
    }
    *out.count = static_cast<int64_t>(kept.size());
}

template <typename Offset, typename Logit>
void decode_nms(const Offset* bbox_regression, const Logit* cls_logits,
                const float* default_boxes_cxcywh, int64_t images, int64_t boxes, int64_t classes,
                const DecodeNmsSettings& settings, const DecodeNmsOutputs& out) {
    Workspace work;
    std::vector<uint8_t> hit(boxes);
    const int64_t most = settings.max_detections;
    for (int64_t image = 0; image < images; ++image) {
        const Logit* logits = cls_logits + image * boxes * classes;
        scan(logits, boxes, classes, settings.softmax, settings.bound, hit.data());
        find_candidates(logits, boxes, classes, settings.softmax, settings.score_threshold,
                        settings.bound, hit.data(), work);
        const DecodeNmsOutputs of_image{out.boxes + image * most * 4, out.scores + image * most,
                                        out.labels + image * most, out.count + image};
        keep_best(bbox_regression + image * boxes * 4, default_boxes_cxcywh, boxes, classes,
                  settings, of_image, work);
    }
}

}  // namespace

// 0, or 1 where memory is short. Arrays are contiguous, types those of decode_nms_native.py; bf16
// as 16-bit integers.
extern "C" __attribute__((visibility("default"))) int32_t ssd_core_decode_nms(
    const void* bbox_regression, int32_t offsets_are_bf16, const void* cls_logits,
    int32_t logits_are_bf16, const float* default_boxes_cxcywh, int64_t images, int64_t boxes,
    int64_t classes, const DecodeNmsSettings* settings, const DecodeNmsOutputs* out) {
    const auto of_logits = [&](const auto* offsets) {
        if (logits_are_bf16) {
            decode_nms(offsets, static_cast<const uint16_t*>(cls_logits), default_boxes_cxcywh,
                       images, boxes, classes, *settings, *out);
        } else {
            decode_nms(offsets, static_cast<const float*>(cls_logits), default_boxes_cxcywh, images,
                       boxes, classes, *settings, *out);
        }
    };
    try {
        if (offsets_are_bf16) {
            of_logits(static_cast<const uint16_t*>(bbox_regression));
        } else {
            of_logits(static_cast<const float*>(bbox_regression));
        }
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
