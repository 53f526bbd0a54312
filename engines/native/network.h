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
constexpr float kFaint = 1e-3f, kRidge = 0.2f, kPriorSteps = 3.0f, kHoming = 0.02f;
constexpr float kLeast = 1e-3f;
constexpr int kReach = 2;

struct Network {  // mirrored by rtskel.engine.network_kernels.NetworkArguments: fields of 8 bytes, in this order
    Index window, joints, answers;  // answers: positions that it answers for
    Index bf16, columns;            // of features: whether they are bf16, else float; numbers of a frame, zeros after 13 J
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
    void* features;          // [B, W, columns]: pose, bones, bone deviation, path deviation, missing, outlying
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

// Distance that a velocity of 1 covers in so many frames, if each keeps that share: kept + kept^2 + ...
FUNCTION inline float coasted(int frames, float kept) {
    return kept / (1.0f - kept) * (1.0f - std::exp(static_cast<float>(frames) * std::log(kept)));
}

// Coordinate `a` of a bone whose frames `known` are there, at frame t, where it is not, and of whose velocity a share
// is `kept` from frame to frame: see `interpolate`.
FUNCTION inline float interpolated(const float* row, std::uint64_t known, int t, int window, float kept) {
    const int before = last_up_to(known, t), after = first_from(known, t, window);
    const bool any_before = before >= 0, any_after = after < window;
    const float x0 = any_before ? row[before] : 0.0f, x1 = any_after ? row[after] : 0.0f;
    const bool inside = any_before && any_after;
    const float chord = inside ? (x1 - x0) / static_cast<float>(after - before) : 0.0f;
    float between = any_before ? x0 + static_cast<float>(t - before) * chord : x1;
    const float weight = inside ? static_cast<float>(t - before) / static_cast<float>(after - before) : any_after ? 1.0f : 0.0f;
    if (any_before && before > 0 && bit(known, before - 1))  // the velocity that leads to the gap is known
        between += (1.0f - weight) * coasted(t - before, kept) * (x0 - row[before - 1] - chord);
    if (any_after && after < window - 1 && bit(known, after + 1))
        between -= weight * coasted(after - t, kept) * (row[after + 1] - x1 - chord);
    if (!inside) {
        float sum = 0.0f;
        for (int u = 0; u < window; ++u) sum += bit(known, u) ? row[u] : 0.0f;
        const float away = std::exp(static_cast<float>(any_before ? t - before : after - t) * std::log(1.0f - kHoming));
        between += (1.0f - away) * (sum / static_cast<float>(count(known)) - between);
    }
    return between;
}

// How far frame t of a row is from where the frames beside it put it, in units of what white noise of deviation 1 makes of it: see
// `Outlying`.
FUNCTION inline float residual(const float* row, int t, int window) {
    const bool back1 = t >= 1, back2 = t >= 2, on1 = t + 1 < window, on2 = t + 2 < window;
    const float* at = row + t;
    if (back2 && on2) return (at[0] - (4.0f * (at[-1] + at[1]) - at[-2] - at[2]) / 6.0f) * std::sqrt(18.0f / 35.0f);
    if (back2 && on1) return (at[0] - at[-1] - (at[1] - at[-2]) / 3.0f) * std::sqrt(9.0f / 20.0f);
    if (back1 && on2) return (at[0] - at[1] - (at[-1] - at[2]) / 3.0f) * std::sqrt(9.0f / 20.0f);
    if (back2) return (at[0] - 2.0f * at[-1] + at[-2]) * std::sqrt(1.0f / 6.0f);
    if (on2) return (at[0] - 2.0f * at[1] + at[2]) * std::sqrt(1.0f / 6.0f);
    return 0.0f;
}

// Whether windows are those of the released weights, for which the two functions below are compiled with W and J known: divisions by
// them, several for each number, are then a multiplication each. W = J = 0: as `Network` says.
FUNCTION inline bool as_released(const Network& net) { return net.window == 32 && net.joints == 50 && net.columns == 656; }

// What the threads of a block share while they prepare a window. Rows have W + 1 numbers.
struct Prepared {
    float* path;                    // J * 3 rows
    float* scratch;                 // J * 4 rows
    float *length, *usual, *spread;  // [J]
    std::uint64_t *valid, *boned;   // [J] frames that show the joint, and also its parent
    int *parent, *hand;             // [J]
    float sign;
    std::uint64_t hands[3];         // frames that show some joint of a hand
    std::uint64_t lost;             // frames that lack some bone
    float product, energy;          // of neighbouring steps, means over joints
};

template <int W, int J>
BLOCK_FUNCTION void prepare_window(const Block& block, const Network& net, const Pass& pass, Index b, Prepared& s) {
    const int w = W ? W : static_cast<int>(net.window), joints = J ? J : static_cast<int>(net.joints), row = w + 1;
    const float* x = pass.x + 3 * b * w * joints;
    const bool* missing = pass.missing + b * w * joints;
    const int left = static_cast<int>(net.left_shoulder), right = static_cast<int>(net.right_shoulder);
    const float momentum = static_cast<float>(net.momentum);
    auto bone = [&](int c, int t) {  // coordinate c of all
        const int up = s.parent[c / 3], j = c / 3;
        return s.path[c * row + t] - (up == j ? 0.0f : s.path[(3 * up + c % 3) * row + t]);
    };

    block.each(joints, [&](int j) {
        s.valid[j] = 0;
        s.parent[j] = static_cast<int>(net.parents[j]);
        s.hand[j] = static_cast<int>(net.hand[j]);
        if (j < 3) s.hands[j] = 0;
        s.lost = 0;
    });
    block.each(w * joints, [&](int i) {
        if (!missing[i]) set(s.valid[i % joints], std::uint64_t{1} << (i / joints));
    });
    block.each(3 * w * joints, [&](int i) {  // missing joints are zeros
        const int t = i / (3 * joints), c = i % (3 * joints);
        s.path[c * row + t] = bit(s.valid[c / 3], t) ? x[i] : 0.0f;
        if (i >= joints) return;
        s.boned[i] = s.valid[i] & s.valid[s.parent[i]];
        set(s.lost, ~s.boned[i] & (~std::uint64_t{0} >> (64 - w)));
        set(s.hands[s.hand[i]], s.valid[i]);
    });
    block.each(1, [&](int) {
        float across = 0.0f;
        for (int t = 0; t < w; ++t) {
            const float apart = s.path[3 * left * row + t] - s.path[3 * right * row + t];
            across += bit(s.valid[left] & s.valid[right], t) ? apart : 0.0f;
        }
        s.sign = across < 0.0f ? -1.0f : 1.0f;
        pass.side[b] = s.sign;
    });
    if (s.sign < 0.0f) block.each(w * joints, [&](int i) { s.path[3 * (i / w) * row + i % w] *= -1.0f; });

    // Bones. Missing ones from what frames before and after show, or of the usual length where there is none.
    float* bones = s.scratch;  // J * 3 rows
    block.each(3 * w * joints, [&](int i) { bones[(i / w) * row + i % w] = bone(i / w, i % w); });
    if (!s.hands[1] || !s.hands[2])  // a hand that is never seen is as long as the other
        block.each(joints, [&](int j) {
            float sum = 0.0f;
            const float* of = bones + 3 * j * row;
            for (int t = 0; t < w; ++t)
                if (bit(s.boned[j], t)) sum += norm(of[t], of[row + t], of[2 * row + t]);
            s.length[j] = sum;
        });
    // How much of its velocity each joint keeps from frame to frame: see `velocity_kept`.
    float *product = s.usual, *energy = s.spread, *kept = s.usual;
    if (s.lost) {
        block.each(joints, [&](int j) {
            const std::uint64_t known = s.boned[j];
            float products = 0.0f, energies = 0.0f;
            for (int a = 0; a < 3; ++a) {
                const float* of = bones + (3 * j + a) * row;
                for (int t = 2; t < w; ++t) {
                    if ((known >> (t - 2) & 7u) != 7u) continue;
                    const float first = of[t - 1] - of[t - 2], second = of[t] - of[t - 1];
                    products += first * second;
                    energies += 0.5f * (first * first + second * second);
                }
            }
            product[j] = products;
            energy[j] = energies;
        });
        block.each(1, [&](int) {
            s.product = s.energy = 0.0f;
            for (int j = 0; j < joints; ++j) {
                s.product += product[j];
                s.energy += energy[j];
            }
        });
        block.each(joints, [&](int j) {
            const std::uint64_t known = s.boned[j];
            const int pairs = count(known & known >> 1 & known >> 2);
            const float moved = energy[j] + s.energy / static_cast<float>(joints);
            const float believed = kPriorSteps * moved / static_cast<float>(pairs < 1 ? 1 : pairs) + 1e-6f;
            const float found = product[j] + s.product / static_cast<float>(joints);
            kept[j] = clamp((found + momentum * believed) / (moved + believed), 0.02f, 0.95f);
        });
    }
    block.each(3 * w * joints, [&](int i) {
        const int c = i / w, t = i % w, j = c / 3, a = c % 3;
        const std::uint64_t known = s.boned[j];
        if (bit(known, t)) return;
        float& missed = bones[c * row + t];
        if (known) {
            missed = interpolated(bones + c * row, known, t, w, kept[j]);  // reads known frames only
            return;
        }
        const float* mean = net.bone_mean + 3 * j;
        missed = mean[a];
        if (s.hand[j] == 0 || s.hands[s.hand[j]]) return;  // seen in some frame
        const int other = static_cast<int>(net.mirror[j]), frames = count(s.boned[other]);
        const float length = frames > 0 ? s.length[other] / static_cast<float>(frames) : net.bone_length[j];
        const float size = norm(mean[0], mean[1], mean[2]);
        missed = mean[a] / (size > 1e-12f ? size : 1e-12f) * length;
    });
    block.each(3 * w * joints, [&](int i) {  // from the nearest joint above that is there
        const int c = i / w, t = i % w, a = c % 3;
        int above[kMostDepth], depth = 0, j = c / 3;
        if (bit(s.valid[j], t)) return;
        while (!bit(s.valid[j], t)) {
            above[depth++] = j;
            if (s.parent[j] == j) break;
            j = s.parent[j];
        }
        float at = bit(s.valid[j], t) ? s.path[(3 * j + a) * row + t] : 0.0f;
        while (depth) at += bones[(3 * above[--depth] + a) * row + t];
        s.path[c * row + t] = at;  // nobody reads a joint that is not there
    });

    // Of each bone a robust mean of its length: see `usual`.
    float *lengths = s.scratch, *weights = s.scratch + joints * row;
    auto length = [&](int j, int t) {
        const float x = bone(3 * j, t), y = bone(3 * j + 1, t), z = bone(3 * j + 2, t);
        return std::sqrt(x * x + y * y + z * z + 1e-12f);
    };
    for (int round = 0; round < kRounds; ++round) {
        block.each(w * joints, [&](int i) {
            const int j = i / w, t = i % w;
            float weight = bit(s.boned[j], t) ? 1.0f : 0.0f;
            if (round == 0) {
                lengths[j * row + t] = length(j, t);
            } else {
                const float far = (lengths[j * row + t] - s.usual[j]) / (s.spread[j] + 1e-4f);
                weight = weight / (1.0f + far * far);
            }
            weights[j * row + t] = weight;
        });
        block.each(joints, [&](int j) {
            const float *weight = weights + j * row, *value = lengths + j * row;
            float total = 0.0f, sum = 0.0f, off = 0.0f;
            for (int t = 0; t < w; ++t) {
                total += weight[t];
                sum += weight[t] * value[t];
            }
            total = total < 1e-6f ? 1e-6f : total;
            s.usual[j] = sum / total;
            for (int t = 0; t < w; ++t) off += weight[t] * std::fabs(value[t] - sum / total);
            s.spread[j] = off / total;
        });
    }

    // How far each joint is from where the frames beside it put it, and what is usual: see `Outlying`.
    auto outlying = [&](int j, int t) {
        const float* of = s.path + 3 * j * row;
        const float x = residual(of, t, w), y = residual(of + row, t, w), z = residual(of + 2 * row, t, w);
        return std::log(std::sqrt(x * x + y * y + z * z + 1e-12f) + kLeast);
    };
    float* usually = s.spread;
    block.each(w * joints, [&](int i) { s.scratch[(i / w) * row + i % w] = bit(s.valid[i / w], i % w) ? outlying(i / w, i % w) : 0.0f; });
    block.each(joints, [&](int j) {
        float sum = 0.0f;
        for (int t = 0; t < w; ++t) sum += s.scratch[j * row + t];
        const int frames = count(s.valid[j]);
        usually[j] = sum / static_cast<float>(frames < 1 ? 1 : frames);
    });

    // Sums over the other frames, weighted by nearness and by whether the joint is there: each of the three coordinates, then of the
    // weights. Nearness is exponential, so that one pass forward and one back make all of them.
    const float fade = std::exp(-1.0f / static_cast<float>(net.bandwidths[0]));
    block.each(4 * joints, [&](int c) {
        const int j = c / 4, a = c % 4;
        const float* of = s.path + (3 * j + a) * row;
        const std::uint64_t valid = s.valid[j];
        float* to = s.scratch + c * row;
        auto term = [&](int t) { return (bit(valid, t) ? 1.0f : kFaint) * (a < 3 ? of[t] : 1.0f); };
        float before = 0.0f, after = 0.0f;
        for (int t = 0; t < w; ++t) {
            to[t] = before;
            before = fade * (before + term(t));
        }
        for (int t = w - 1; t >= 0; --t) {
            to[t] += after;
            after = fade * (after + term(t));
        }
    });

    // What the trunk sees.
    const int inputs = 13 * joints, columns = J ? (13 * J + 7) / 8 * 8 : static_cast<int>(net.columns);
    block.each(columns * w, [&](int i) {
        const int t = i / columns, k = i % columns;
        float v = 0.0f;
        if (k < 3 * joints) {
            v = s.path[k * row + t];
        } else if (k < 6 * joints) {
            const int c = k - 3 * joints;
            v = (bone(c, t) - net.bone_mean[c]) / net.bone_scale[c / 3];
        } else if (k < 7 * joints) {
            const int j = k - 6 * joints;
            if (bit(s.boned[j], t) && s.parent[j] != j)
                v = clamp((length(j, t) - s.usual[j]) / (0.2f * net.bone_scale[j]), -5.0f, 5.0f);
        } else if (k < 10 * joints) {  // from the narrowest constant fit of the other frames
            const int c = k - 7 * joints, j = c / 3;
            const float *sums = s.scratch + 4 * j * row + t, near = sums[(c % 3) * row] / sums[3 * row];
            v = clamp((s.path[c * row + t] - near) / net.bone_scale[j], -5.0f, 5.0f);
        } else if (k < 11 * joints) {
            v = bit(s.valid[k - 10 * joints], t) ? 0.0f : 1.0f;
        } else if (k < inputs) {
            const int j = (k - 11 * joints) % joints;
            if (bit(s.valid[j], t)) v = k < 12 * joints ? outlying(j, t) - usually[j] : usually[j] - std::log(kLeast);
        }
        const Index at = b * w * columns + i;
        if (net.bf16) static_cast<std::uint16_t*>(pass.features)[at] = to_bf16(v);
        else static_cast<float*>(pass.features)[at] = v;
    });
    float* path = pass.path + 3 * b * w * joints;
    block.each(3 * w * joints, [&](int i) { path[i] = s.path[(i / w) * row + i % w]; });
}

// What the threads of a block share while they finish a window.
struct Finished {
    float *path, *weight;         // rows: J * 3, J
    float* centre;                // [J * 3]
    float* near;                  // [bandwidths, W]
    float* refined;               // [P, J, 3]
    std::uint64_t* valid;         // [J]
    int *parent, *hand;           // [J]
    std::uint64_t hands[3], near_shown;
};

template <int W, int J>
BLOCK_FUNCTION void finish_window(const Block& block, const Network& net, const Pass& pass, Index b, Finished& s) {
    const int w = W ? W : static_cast<int>(net.window), joints = J ? J : static_cast<int>(net.joints), row = w + 1;
    const int answers = static_cast<int>(net.answers), outputs = (7 + kFits) * joints;
    const bool* missing = pass.missing + b * w * joints;
    const float *path = pass.path + 3 * b * w * joints, *early = pass.early + b * w * joints;
    const float* out = pass.out + b * answers * outputs;
    const float side = pass.side[b];
    float widths[kBandwidths];
    for (int n = 0; n < kBandwidths; ++n) widths[n] = static_cast<float>(net.bandwidths[n]);

    block.each(joints, [&](int j) {
        s.valid[j] = 0;
        s.parent[j] = static_cast<int>(net.parents[j]);
        s.hand[j] = static_cast<int>(net.hand[j]);
        if (j < 3) s.hands[j] = 0;
    });
    block.each(3 * w * joints, [&](int i) {
        s.path[(i / w) * row + i % w] = path[i];
        if (i < w * joints) {
            const int t = i / joints, j = i % joints;
            const bool there = !missing[i];
            s.weight[j * row + t] = there ? kFaint + sigmoid(early[i]) : kFaint;
            if (there) set(s.valid[j], std::uint64_t{1} << t);
        }
        if (i < kBandwidths * w) s.near[i] = std::exp(-static_cast<float>(i % w) / widths[i / w]);
    });
    block.each(3 * joints, [&](int c) {
        float sum = 0.0f;
        for (int t = 0; t < w; ++t) sum += s.path[c * row + t];
        s.centre[c] = sum / static_cast<float>(w);
        if (c < joints) set(s.hands[s.hand[c]], s.valid[c]);
        if (c) return;
        std::uint64_t one = 0, shown = 0;  // frames that show some joint, and more than one
        for (int j = 0; j < joints; ++j) {
            shown |= one & s.valid[j];
            one |= s.valid[j];
        }
        s.near_shown = shown ? shown : ~std::uint64_t{0};
        for (int k = 1; k <= kReach; ++k) s.near_shown |= shown << k | shown >> k;
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
                s2[n] = multiply_add(kt, tau, s2[n]);
                for (int a = 0; a < 3; ++a) {
                    f0[n][a] = multiply_add(k, x[a], f0[n][a]);
                    f1[n][a] = multiply_add(kt, x[a], f1[n][a]);
                }
            }
        }
        const float *own = out + p * outputs, *limb = own + 3 * joints, *pull = own + 7 * joints + kFits * j;
        const float logit = own[6 * joints + j];
        const float open = bit(s.valid[j], t) ? clamp(1.1f * sigmoid(logit) - 0.05f, 0.0f, 1.0f) : 1.0f;
        const float gate = bit(s.near_shown, t) ? open : 0.0f;
        for (int a = 0; a < 3; ++a) {
            const float here = rows[a * row + t];
            float change = own[3 * j + a] * net.bone_scale[j];
            for (int k = j;; k = s.parent[k]) {
                change += limb[3 * k + a] * net.bone_scale[k];
                if (s.parent[k] == k) break;
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
        for (int k = j; s.parent[k] != k; k = s.parent[k]) {
            const int up = s.parent[k], hand = s.hand[k];
            if (hand && s.hand[up] == hand && !s.hands[hand]) {
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

FUNCTION inline Index prepare_bytes(Index w, Index j) { return 16 * j + 4 * (7 * j * (w + 1) + 5 * j); }

FUNCTION inline void lay_out(Prepared& s, void* memory, const Network& net) {
    const Index j = net.joints, row = net.window + 1;
    Room room{static_cast<char*>(memory)};
    s.valid = room.take<std::uint64_t>(j);
    s.boned = room.take<std::uint64_t>(j);
    s.path = room.take<float>(3 * j * row);
    s.scratch = room.take<float>(4 * j * row);
    s.length = room.take<float>(j);
    s.usual = room.take<float>(j);
    s.spread = room.take<float>(j);
    s.parent = room.take<int>(j);
    s.hand = room.take<int>(j);
}

FUNCTION inline Index finish_bytes(Index w, Index j, Index p) {
    return 8 * j + 4 * (4 * j * (w + 1) + 5 * j + kBandwidths * w + 3 * p * j);
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
    s.parent = room.take<int>(j);
    s.hand = room.take<int>(j);
}

}  // namespace

#ifdef __CUDACC__
extern "C" __global__ void __launch_bounds__(512, 2) rtskel_prepare(Network net, Pass pass) {
    extern __shared__ Index room[];
    __shared__ Prepared shared;
    if (threadIdx.x == 0) lay_out(shared, room, net);
    __syncthreads();
    if (as_released(net)) prepare_window<32, 50>(Block{}, net, pass, blockIdx.x, shared);
    else prepare_window<0, 0>(Block{}, net, pass, blockIdx.x, shared);
}

extern "C" __global__ void __launch_bounds__(512, 2) rtskel_finish(Network net, Pass pass) {
    extern __shared__ Index room[];
    __shared__ Finished shared;
    if (threadIdx.x == 0) lay_out(shared, room, net);
    __syncthreads();
    if (as_released(net)) finish_window<32, 50>(Block{}, net, pass, blockIdx.x, shared);
    else finish_window<0, 0>(Block{}, net, pass, blockIdx.x, shared);
}
#else
#include <vector>

extern "C" void rtskel_prepare(Index blocks, const Network* net, const Pass* pass) {
    std::vector<Index> room(prepare_bytes(net->window, net->joints) / 8 + 1);
    Prepared shared{};
    lay_out(shared, room.data(), *net);
    const auto one = as_released(*net) ? prepare_window<32, 50> : prepare_window<0, 0>;
    for (Index b = 0; b < blocks; ++b) one(Block{}, *net, *pass, b, shared);
}

extern "C" void rtskel_finish(Index blocks, const Network* net, const Pass* pass) {
    std::vector<Index> room(finish_bytes(net->window, net->joints, net->answers) / 8 + 1);
    Finished shared{};
    lay_out(shared, room.data(), *net);
    const auto one = as_released(*net) ? finish_window<32, 50> : finish_window<0, 0>;
    for (Index b = 0; b < blocks; ++b) one(Block{}, *net, *pass, b, shared);
}
#endif
