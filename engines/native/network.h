// What the network of preset `realtime` does around its trunk, in two kernels: `prepare` fills in what a window lacks and computes the
// features that the trunk sees, `finish` makes refined poses of what the trunk says. The specification is rtskel/model.py
// (`Skeletor.forward`); names are the same. PyTorch's compiler makes some eighty kernels of these parts.
//
// A block has one window. Paths are [J, 3, W], time last, as in the specification; in shared memory a row has W + 1 numbers, so that
// threads that read one frame of many rows meet different banks.
#pragma once

#include "block.h"

namespace {

constexpr int kBandwidths = 3, kFits = 2 * kBandwidths, kRounds = 3, kMostWindow = 64, kMostDepth = 16;
constexpr float kFaint = 1e-3f, kRidge = 0.2f;

struct Network {  // mirrored by rtskel.engine.network_kernels.NetworkArguments: fields of 8 bytes, in this order
    Index window, joints, answers, bf16;  // answers: positions that it answers for; bf16: the type of features
    Index left_shoulder, right_shoulder;
    double momentum;
    double bandwidths[kBandwidths];
    const Index* parents;        // [J] the root is its own
    const Index* mirror;         // [J]
    const Index* hand;           // [J] 0: of no hand; joints of one hand have the same number, 1 or 2
    const float* bone_length;    // [J]
    const float* bone_mean;      // [J, 3]
    const float* bone_scale;     // [J]
};

struct Pass {  // mirrored by rtskel.engine.network_kernels.PassArguments
    const float* x;          // [B, W, J, 3]
    const bool* missing;     // [B, W, J]
    const Index* positions;  // [P]
    float* path;             // [B, J, 3, W] the filled window, mirrored where its left shoulder was at -x
    float* side;             // [B] -1 where it was
    void* features;          // [B, W, 11 J]: pose, bones, bone deviation, path deviation, missing
    const float* out;        // [B, P, 13 J] of the trunk: own, limb, gate, pull
    const float* early;      // [B, W, J] of the trunk: reliability
    float* y;                // [B, P, J, 3]
};

FUNCTION inline float clamp(float v, float low, float high) { return v < low ? low : v > high ? high : v; }

FUNCTION inline float sigmoid(float v) { return 1.0f / (1.0f + std::exp(-v)); }

FUNCTION inline float norm(float a, float b, float c) { return std::sqrt(a * a + b * b + c * c); }

// To the nearest bf16, ties to even; not for NaN.
FUNCTION inline std::uint16_t to_bf16(float v) {
    union {
        float number;
        std::uint32_t bits;
    } u;
    u.number = v;
    return static_cast<std::uint16_t>((u.bits + 0x7fffu + ((u.bits >> 16) & 1u)) >> 16);
}

FUNCTION inline int bit(std::uint64_t mask, int t) { return static_cast<int>(mask >> t & 1u); }

FUNCTION inline int last_up_to(std::uint64_t mask, int t) {  // -1: none
    while (t >= 0 && !bit(mask, t)) --t;
    return t;
}

FUNCTION inline int first_from(std::uint64_t mask, int t, int window) {  // window: none
    while (t < window && !bit(mask, t)) ++t;
    return t;
}

FUNCTION inline int count(std::uint64_t mask) {
    int n = 0;
    for (; mask; mask &= mask - 1) ++n;
    return n;
}

// Distance that a velocity of 1 covers in so many frames: momentum + momentum^2 + ...
FUNCTION inline float coasted(int frames, float momentum) {
    return momentum / (1.0f - momentum) * (1.0f - std::exp(static_cast<float>(frames) * std::log(momentum)));
}

// Coordinate `a` of a bone whose frames `known` are there, at frame t, where it is not: see `interpolate`.
FUNCTION inline float interpolated(const float* row, std::uint64_t known, int t, int window, float momentum) {
    const int before = last_up_to(known, t), after = first_from(known, t, window);
    const bool any_before = before >= 0, any_after = after < window;
    const float x0 = any_before ? row[before] : 0.0f, x1 = any_after ? row[after] : 0.0f;
    const bool inside = any_before && any_after;
    const float chord = inside ? (x1 - x0) / static_cast<float>(after - before) : 0.0f;
    float between = any_before ? x0 + static_cast<float>(t - before) * chord : x1;
    if (momentum > 0.0f) {
        const float weight = inside ? static_cast<float>(t - before) / static_cast<float>(after - before) : any_after ? 1.0f : 0.0f;
        if (any_before && before > 0 && bit(known, before - 1))  // the velocity that leads to the gap is known
            between += (1.0f - weight) * coasted(t - before, momentum) * (x0 - row[before - 1] - chord);
        if (any_after && after < window - 1 && bit(known, after + 1))
            between -= weight * coasted(after - t, momentum) * (row[after + 1] - x1 - chord);
    }
    return between;
}

// What the threads of a block share while they prepare a window. Rows: J * 3 of W + 1 numbers.
struct Prepared {
    float *path, *bones;            // rows
    float *length, *usual;          // [J]
    float *near;                    // [W] exp(-distance)
    std::uint64_t *valid, *boned;   // [J] frames that show the joint, and also its parent
    float sign;
    std::uint64_t hands[3];         // frames that show some joint of a hand
};

BLOCK_FUNCTION void prepare_window(const Block& block, const Network& net, const Pass& pass, Index b, Prepared& s) {
    const int w = static_cast<int>(net.window), joints = static_cast<int>(net.joints), row = w + 1;
    const float* x = pass.x + 3 * b * w * joints;
    const bool* missing = pass.missing + b * w * joints;
    const int left = static_cast<int>(net.left_shoulder), right = static_cast<int>(net.right_shoulder);
    const float momentum = static_cast<float>(net.momentum);
    auto parent = [&](int j) { return static_cast<int>(net.parents[j]); };

    block.each(joints, [&](int j) {
        std::uint64_t mask = 0;
        for (int t = 0; t < w; ++t) mask |= static_cast<std::uint64_t>(!missing[t * joints + j]) << t;
        s.valid[j] = mask;
    });
    block.each(3 * w * joints, [&](int i) {  // missing joints are zeros
        const int t = i / (3 * joints), c = i % (3 * joints);
        s.path[c * row + t] = bit(s.valid[c / 3], t) ? x[i] : 0.0f;
        if (i < w) s.near[i] = std::exp(-static_cast<float>(i) / static_cast<float>(net.bandwidths[0]));
        if (i < joints) s.boned[i] = s.valid[i] & s.valid[parent(i)];
    });
    block.each(3, [&](int hand) {
        std::uint64_t seen = 0;
        for (int j = 0; j < joints; ++j)
            if (net.hand[j] == hand) seen |= s.valid[j];
        s.hands[hand] = seen;
        if (hand) return;
        float across = 0.0f;
        for (int t = 0; t < w; ++t)
            if (bit(s.valid[left] & s.valid[right], t)) across += s.path[3 * left * row + t] - s.path[3 * right * row + t];
        s.sign = across < 0.0f ? -1.0f : 1.0f;
        pass.side[b] = s.sign;
    });
    block.each(w * joints, [&](int i) { s.path[3 * (i / w) * row + i % w] *= s.sign; });

    // Bones; of each joint the mean length over the frames that show it.
    block.each(3 * w * joints, [&](int i) {
        const int c = i / w, t = i % w, j = c / 3, up = parent(j);
        s.bones[c * row + t] = s.path[c * row + t] - (up == j ? 0.0f : s.path[(3 * up + c % 3) * row + t]);
    });
    block.each(joints, [&](int j) {
        float sum = 0.0f;
        const float* bone = s.bones + 3 * j * row;
        for (int t = 0; t < w; ++t)
            if (bit(s.boned[j], t)) sum += norm(bone[t], bone[row + t], bone[2 * row + t]);
        s.length[j] = sum;
    });

    // Missing bones, from what frames before and after show, or of the usual length where there is none.
    block.each(3 * w * joints, [&](int i) {
        const int c = i / w, t = i % w, j = c / 3, a = c % 3;
        const std::uint64_t known = s.boned[j];
        if (bit(known, t)) return;
        float& bone = s.bones[c * row + t];
        if (known) {
            bone = interpolated(s.bones + c * row, known, t, w, momentum);  // reads known frames only
            return;
        }
        const float* mean = net.bone_mean + 3 * j;
        bone = mean[a];
        if (net.hand[j] == 0 || s.hands[net.hand[j]]) return;  // seen in some frame
        const int other = static_cast<int>(net.mirror[j]), frames = count(s.boned[other]);
        const float length = frames > 0 ? s.length[other] / static_cast<float>(frames) : net.bone_length[j];
        const float size = norm(mean[0], mean[1], mean[2]);
        bone = mean[a] / (size > 1e-12f ? size : 1e-12f) * length;
    });
    block.each(3 * w * joints, [&](int i) {  // from the nearest joint above that is there
        const int c = i / w, t = i % w, a = c % 3;
        int above[kMostDepth], depth = 0, j = c / 3;
        if (bit(s.valid[j], t)) return;
        while (!bit(s.valid[j], t)) {
            above[depth++] = j;
            if (parent(j) == j) break;
            j = parent(j);
        }
        float at = bit(s.valid[j], t) ? s.path[(3 * j + a) * row + t] : 0.0f;
        while (depth) at += s.bones[(3 * above[--depth] + a) * row + t];
        s.path[c * row + t] = at;  // nobody reads a joint that is not there
    });

    // What the trunk sees.
    block.each(3 * w * joints, [&](int i) {
        const int c = i / w, t = i % w, j = c / 3, up = parent(j);
        s.bones[c * row + t] = s.path[c * row + t] - (up == j ? 0.0f : s.path[(3 * up + c % 3) * row + t]);
        pass.path[3 * b * w * joints + i] = s.path[c * row + t];
    });
    block.each(joints, [&](int j) {  // a robust mean of the bone's length: see `usual`
        const float* bone = s.bones + 3 * j * row;
        const std::uint64_t present = s.boned[j];
        float centre = 0.0f, spread = 0.0f;
        for (int round = 0; round < kRounds; ++round) {
            float total = 0.0f, sum = 0.0f, off = 0.0f;
            auto weigh = [&](auto use) {
                for (int t = 0; t < w; ++t) {
                    if (!bit(present, t)) continue;
                    const float bx = bone[t], by = bone[row + t], bz = bone[2 * row + t];
                    const float length = std::sqrt(bx * bx + by * by + bz * bz + 1e-12f);
                    float weight = 1.0f;
                    if (round) {
                        const float far = (length - s.usual[j]) / (spread + 1e-4f);
                        weight = 1.0f / (1.0f + far * far);
                    }
                    use(weight, length);
                }
            };
            weigh([&](float weight, float length) {
                total += weight;
                sum += weight * length;
            });
            total = total < 1e-6f ? 1e-6f : total;
            centre = sum / total;
            weigh([&](float weight, float length) { off += weight * std::fabs(length - centre); });
            spread = off / total;
            s.usual[j] = centre;
        }
    });
    const int inputs = 11 * joints;
    block.each(inputs * w, [&](int i) {
        const int t = i / inputs, k = i % inputs;
        float v;
        if (k < 3 * joints) {
            v = s.path[k * row + t];
        } else if (k < 6 * joints) {
            const int c = k - 3 * joints;
            v = (s.bones[c * row + t] - net.bone_mean[c]) / net.bone_scale[c / 3];
        } else if (k < 7 * joints) {
            const int j = k - 6 * joints;
            const float* bone = s.bones + 3 * j * row + t;
            const float length = std::sqrt(bone[0] * bone[0] + bone[row] * bone[row] + bone[2 * row] * bone[2 * row] + 1e-12f);
            const bool present = bit(s.boned[j], t) && parent(j) != j;
            v = present ? clamp((length - s.usual[j]) / (0.2f * net.bone_scale[j]), -5.0f, 5.0f) : 0.0f;
        } else if (k < 10 * joints) {  // from the narrowest constant fit of the other frames
            const int c = k - 7 * joints;
            const float* path = s.path + c * row;
            const std::uint64_t valid = s.valid[c / 3];
            float sum = 0.0f, total = 0.0f;
            for (int u = 0; u < w; ++u) {
                if (u == t) continue;
                const float weight = (bit(valid, u) ? 1.0f : kFaint) * s.near[u < t ? t - u : u - t];
                sum += weight * path[u];
                total += weight;
            }
            v = clamp((path[t] - sum / total) / net.bone_scale[c / 3], -5.0f, 5.0f);
        } else {
            v = bit(s.valid[k - 10 * joints], t) ? 0.0f : 1.0f;
        }
        const Index at = b * w * inputs + i;
        if (net.bf16) static_cast<std::uint16_t*>(pass.features)[at] = to_bf16(v);
        else static_cast<float*>(pass.features)[at] = v;
    });
}

// What the threads of a block share while they finish a window.
struct Finished {
    float *path, *weight;         // rows: J * 3, J
    float* centre;                // [J * 3]
    float* near;                  // [bandwidths, W]
    float* refined;               // [P, J, 3]
    std::uint64_t* valid;         // [J]
    std::uint64_t hands[3];
};

BLOCK_FUNCTION void finish_window(const Block& block, const Network& net, const Pass& pass, Index b, Finished& s) {
    const int w = static_cast<int>(net.window), joints = static_cast<int>(net.joints), row = w + 1;
    const int answers = static_cast<int>(net.answers), outputs = (7 + kFits) * joints;
    const bool* missing = pass.missing + b * w * joints;
    const float *path = pass.path + 3 * b * w * joints, *early = pass.early + b * w * joints;
    const float* out = pass.out + b * answers * outputs;
    const float side = pass.side[b];
    auto parent = [&](int j) { return static_cast<int>(net.parents[j]); };
    float widths[kBandwidths];
    for (int n = 0; n < kBandwidths; ++n) widths[n] = static_cast<float>(net.bandwidths[n]);

    block.each(joints, [&](int j) {
        std::uint64_t mask = 0;
        for (int t = 0; t < w; ++t) mask |= static_cast<std::uint64_t>(!missing[t * joints + j]) << t;
        s.valid[j] = mask;
    });
    block.each(3 * w * joints, [&](int i) {
        s.path[(i / w) * row + i % w] = path[i];
        if (i < w * joints) {
            const int t = i / joints, j = i % joints;
            s.weight[j * row + t] = bit(s.valid[j], t) ? kFaint + sigmoid(early[i]) : kFaint;
        }
        if (i < kBandwidths * w) s.near[i] = std::exp(-static_cast<float>(i % w) / widths[i / w]);
    });
    block.each(3 * joints, [&](int c) {
        float sum = 0.0f;
        for (int t = 0; t < w; ++t) sum += s.path[c * row + t];
        s.centre[c] = sum / static_cast<float>(w);
        if (c > 2) return;
        std::uint64_t seen = 0;
        for (int j = 0; j < joints; ++j)
            if (net.hand[j] == c) seen |= s.valid[j];
        s.hands[c] = seen;
    });

    block.each(answers * joints, [&](int i) {
        const int p = i / joints, j = i % joints, t = static_cast<int>(pass.positions[p]);
        const float *rows = s.path + 3 * j * row, *weight = s.weight + j * row, *centre = s.centre + 3 * j;
        float s0[kBandwidths] = {}, s1[kBandwidths] = {}, s2[kBandwidths] = {};
        float f0[kBandwidths][3] = {}, f1[kBandwidths][3] = {};
        for (int u = 0; u < w; ++u) {
            const float tau = static_cast<float>(u - t), q = weight[u];
            const float x[3] = {rows[u] - centre[0], rows[row + u] - centre[1], rows[2 * row + u] - centre[2]};
            for (int n = 0; n < kBandwidths; ++n) {
                const float k = q * s.near[n * w + (u < t ? t - u : u - t)], kt = k * tau;
                s0[n] += k;
                s1[n] += kt;
                s2[n] += kt * tau;
                for (int a = 0; a < 3; ++a) {
                    f0[n][a] += k * x[a];
                    f1[n][a] += kt * x[a];
                }
            }
        }
        const float *own = out + p * outputs, *limb = own + 3 * joints, *pull = own + 7 * joints + kFits * j;
        const float logit = own[6 * joints + j];
        const float gate = bit(s.valid[j], t) ? clamp(1.1f * sigmoid(logit) - 0.05f, 0.0f, 1.0f) : 1.0f;
        for (int a = 0; a < 3; ++a) {
            const float here = rows[a * row + t];
            float change = own[3 * j + a] * net.bone_scale[j];
            for (int k = j;; k = parent(k)) {
                change += limb[3 * k + a] * net.bone_scale[k];
                if (parent(k) == k) break;
            }
            for (int n = 0; n < kBandwidths; ++n) {
                const float ridged = s2[n] + kRidge * widths[n] * widths[n] * s0[n];
                const float constant = f0[n][a] / s0[n];
                const float linear = (f0[n][a] * ridged - f1[n][a] * s1[n]) / (s0[n] * ridged - s1[n] * s1[n]);
                change += (constant + centre[a] - here) * pull[n] + (linear + centre[a] - here) * pull[kBandwidths + n];
            }
            s.refined[3 * i + a] = here + change * gate;
        }
    });

    // A hand that no frame shows keeps the lengths of the filled window: see `keep_lengths`.
    block.each(answers * joints, [&](int i) {
        const int p = i / joints, j = i % joints, t = static_cast<int>(pass.positions[p]);
        float change[3] = {0.0f, 0.0f, 0.0f};
        for (int k = j;; k = parent(k)) {
            const int up = parent(k);
            if (up == k) break;
            const Index hand = net.hand[k];
            if (hand && net.hand[up] == hand && !s.hands[hand]) {
                const float *y = s.refined + 3 * (p * joints + k), *v = s.refined + 3 * (p * joints + up);
                const float *d = s.path + 3 * k * row + t, *e = s.path + 3 * up * row + t;
                const float bone[3] = {y[0] - v[0], y[1] - v[1], y[2] - v[2]};
                const float length = norm(d[0] - e[0], d[row] - e[row], d[2 * row] - e[2 * row]), size = norm(bone[0], bone[1], bone[2]);
                for (int a = 0; a < 3; ++a) change[a] += bone[a] / (size > 1e-12f ? size : 1e-12f) * length - bone[a];
            }
        }
        float* y = pass.y + 3 * (b * answers * joints + i);
        for (int a = 0; a < 3; ++a) y[a] = (s.refined[3 * i + a] + change[a]) * (a == 0 ? side : 1.0f);
    });
}

// Shared memory: numbers of 8 bytes first.
struct Room {
    char* at;
    template <class T>
    FUNCTION T* take(Index n) {
        T* found = reinterpret_cast<T*>(at);
        at += n * static_cast<Index>(sizeof(T));
        return found;
    }
};

FUNCTION inline Index prepare_bytes(Index w, Index j) { return 16 * j + 4 * (6 * j * (w + 1) + 2 * j + w); }

FUNCTION inline void lay_out(Prepared& s, void* memory, const Network& net) {
    const Index j = net.joints, rows = 3 * j * (net.window + 1);
    Room room{static_cast<char*>(memory)};
    s.valid = room.take<std::uint64_t>(j);
    s.boned = room.take<std::uint64_t>(j);
    s.path = room.take<float>(rows);
    s.bones = room.take<float>(rows);
    s.length = room.take<float>(j);
    s.usual = room.take<float>(j);
    s.near = room.take<float>(net.window);
}

FUNCTION inline Index finish_bytes(Index w, Index j, Index p) {
    return 8 * j + 4 * (4 * j * (w + 1) + 3 * j + kBandwidths * w + 3 * p * j);
}

FUNCTION inline void lay_out(Finished& s, void* memory, const Network& net) {
    const Index j = net.joints, w = net.window;
    Room room{static_cast<char*>(memory)};
    s.valid = room.take<std::uint64_t>(j);
    s.path = room.take<float>(3 * j * (w + 1));
    s.weight = room.take<float>(j * (w + 1));
    s.centre = room.take<float>(3 * j);
    s.near = room.take<float>(kBandwidths * w);
    s.refined = room.take<float>(3 * net.answers * j);
}

}  // namespace

#ifdef __CUDACC__
extern "C" __global__ void __launch_bounds__(256) rtskel_prepare(Network net, Pass pass) {
    extern __shared__ Index room[];
    __shared__ Prepared shared;
    if (threadIdx.x == 0) lay_out(shared, room, net);
    __syncthreads();
    prepare_window(Block{}, net, pass, blockIdx.x, shared);
}

extern "C" __global__ void __launch_bounds__(256) rtskel_finish(Network net, Pass pass) {
    extern __shared__ Index room[];
    __shared__ Finished shared;
    if (threadIdx.x == 0) lay_out(shared, room, net);
    __syncthreads();
    finish_window(Block{}, net, pass, blockIdx.x, shared);
}
#else
#include <vector>

extern "C" void rtskel_prepare(Index blocks, const Network* net, const Pass* pass) {
    std::vector<Index> room(prepare_bytes(net->window, net->joints) / 8 + 1);
    Prepared shared{};
    lay_out(shared, room.data(), *net);
    for (Index b = 0; b < blocks; ++b) prepare_window(Block{}, *net, *pass, b, shared);
}

extern "C" void rtskel_finish(Index blocks, const Network* net, const Pass* pass) {
    std::vector<Index> room(finish_bytes(net->window, net->joints, net->answers) / 8 + 1);
    Finished shared{};
    lay_out(shared, room.data(), *net);
    for (Index b = 0; b < blocks; ++b) finish_window(Block{}, *net, *pass, b, shared);
}
#endif
