// The decoder over time: controller, controller output, generator and factors;
// docs/recurrence.md derives the equations.
#pragma once

#include <algorithm>
#include <cstring>
#include "threads.h"
#include "unit.h"

struct DecoderSizes {
  Index trials, repeats, bins, ci, con, co, ext, gen, fac;
  Index ci_trial, ci_bin;    // strides of the controller inputs (B, T, C)
  Index ext_trial, ext_bin;  // and of the external inputs (B, T, E)
  int64_t clips_con, clips_gen, threads;
  double clip, scale;
};

template <class T>
struct DecoderArrays {
  const T *ci, *ext;
  const T *con_ih, *con_hh, *con_bias, *co_weight, *co_bias, *gen_ih, *gen_hh, *gen_bias;
  const T *fac_weight, *noise;
  const uint8_t *keep_f, *keep_g;
  T *gen_states, *con_states, *factors, *co, *co_stds, *gen_inputs, *gen_gates, *con_gates;
};

template <class T>
struct DecoderGradients {
  // Gradients of the decoder's states, (T, B, ...) with strides of bins and trials; null where
  // unused.
  const T* incoming[6];
  Index bin[6], trial[6];
  // Gradients of the arguments. That of ci has the strides of ci; ci and ext may be null.
  T *gen_0, *con_0, *fac_0, *ci, *ext;
  T *con_ih, *con_hh, *con_bias, *co_weight, *co_bias, *gen_ih, *gen_hh, *gen_bias;
  T* fac_weight;
};
enum { GEN_STATES, CON_STATES, FACTORS, CO_MEANS, CO_STDS, GEN_INPUTS };

template <class T>
static void decoder_forward(const DecoderSizes& s, const DecoderArrays<T>& a) {
  const Index b = s.trials, n_in = s.co + s.ext, g3 = 3 * s.gen, c3 = 3 * s.con;
  const Index con_in = s.ci + s.fac;
  const bool use_con = s.con > 0;
  const T scale = T(s.scale);
  const Unit<T> gen(s.gen, a.gen_hh, a.gen_bias, s.clips_gen != 0, s.clip);
  const Unit<T> con(s.con, a.con_hh, a.con_bias, s.clips_con != 0, s.clip);
  const PackedMatrix<T> to_gen(n_in, g3, a.gen_ih, n_in, true);
  const PackedMatrix<T> to_fac(s.gen, s.fac, a.fac_weight, s.gen, true);
  const PackedMatrix<T> ci_to_con(s.ci, c3, a.con_ih, con_in, true);
  const PackedMatrix<T> fac_to_con(use_con ? s.fac : 0, c3, a.con_ih + s.ci, con_in, true);
  const PackedMatrix<T> to_co(s.con, 2 * s.co, a.co_weight, s.con, true);
  divide(b, int(s.threads), [&](Index first, Index rows, Index) {
    Scratch scratch;
    T* reset = scratch.take<T>(rows * std::max(s.gen, s.con));
    T* masked_f = scratch.take<T>(rows * s.fac);
    T* masked_g = scratch.take<T>(rows * s.gen);
    T* gen_buffer = a.gen_gates ? nullptr : scratch.take<T>(rows * g3);
    T* shared = use_con && s.repeats > 1 ? scratch.take<T>(rows * c3) : nullptr;
    const auto owner = [&](Index trial) { return trial / s.repeats; };
    T* con_buffer = a.con_gates || !use_con ? nullptr : scratch.take<T>(rows * c3);
    for (Index t = 0; t < s.bins; t++) {
      const Index row = t * b + first, next = row + b;
      T* inputs = a.gen_inputs + row * n_in;
      copy_rows(rows, s.ext, a.ext + first * s.ext_trial + t * s.ext_bin, s.ext_trial,
                inputs + s.co, n_in);
      if (use_con) {
        T* gates = a.con_gates ? a.con_gates + row * c3 : con_buffer;
        // Consecutive trials that share controller inputs also share the projections of these.
        T* projected = s.repeats > 1 ? shared : gates;
        ci_to_con.multiply(owner(first + rows - 1) + 1 - owner(first),
                           a.ci + owner(first) * s.ci_trial + t * s.ci_bin, s.ci_trial, false,
                           projected, c3);
        if (s.repeats > 1)
          for (Index i = 0; i < rows; i++)
            copy_rows(1, c3, shared + (owner(first + i) - owner(first)) * c3, c3, gates + i * c3,
                      c3);
        const T* factors = a.factors + row * s.fac;
        if (a.keep_f) {
          masked(rows, s.fac, factors, a.keep_f + row * s.fac, scale, masked_f, s.fac);
          factors = masked_f;
        }
        fac_to_con.multiply(rows, factors, s.fac, true, gates, c3);
        T* after = a.con_states + next * s.con;
        con.step(rows, gates, a.con_states + row * s.con, after, reset);
        T* co = a.co + row * 2 * s.co;
        to_co.multiply(rows, after, s.con, false, co, 2 * s.co);
        for (Index i = 0; i < rows; i++)
          for (Index j = 0; j < s.co; j++) {
            T* out = co + i * 2 * s.co;
            const Index k = (row + i) * s.co + j;
            out[j] += a.co_bias[j];
            out[s.co + j] += a.co_bias[s.co + j];
            const T std = exponential(T(0.5) * out[s.co + j]);
            a.co_stds[k] = std;
            inputs[i * n_in + j] = a.noise ? out[j] + std * a.noise[k] : out[j];
          }
      }
      T* gates = a.gen_gates ? a.gen_gates + row * g3 : gen_buffer;
      to_gen.multiply(rows, inputs, n_in, false, gates, g3);
      const T* states = a.gen_states + next * s.gen;
      gen.step(rows, gates, a.gen_states + row * s.gen, a.gen_states + next * s.gen, reset);
      if (a.keep_g) {
        masked(rows, s.gen, states, a.keep_g + row * s.gen, scale, masked_g, s.gen);
        states = masked_g;
      }
      to_fac.multiply(rows, states, s.gen, false, a.factors + next * s.fac, s.fac);
    }
  });
}

template <class T>
static void decoder_backward(const DecoderSizes& s, const DecoderArrays<T>& a,
                             const DecoderGradients<T>& d) {
  const Index b = s.trials, n_in = s.co + s.ext, g3 = 3 * s.gen, c3 = 3 * s.con, co2 = 2 * s.co;
  const Index con_in = s.ci + s.fac;
  const bool use_con = s.con > 0;
  const T scale = T(s.scale);
  const Unit<T> gen(s.gen, a.gen_hh, nullptr, s.clips_gen != 0, s.clip);
  const Unit<T> con(s.con, a.con_hh, nullptr, s.clips_con != 0, s.clip);
  const PackedMatrix<T> from_fac(s.fac, s.gen, a.fac_weight, s.gen, false);
  const PackedMatrix<T> to_gen_in(g3, n_in, a.gen_ih, n_in, false);
  const PackedMatrix<T> from_co(co2, s.con, a.co_weight, s.con, false);
  const PackedMatrix<T> con_to_ci(d.ci ? c3 : 0, s.ci, a.con_ih, con_in, false);
  const PackedMatrix<T> con_to_fac(c3, s.fac, a.con_ih + s.ci, con_in, false);
  const Index chunks = n_chunks(b, int(s.threads));
  Sums<T> gen_ih(chunks, g3 * n_in), gen_hh(chunks, g3 * s.gen), gen_bias(chunks, g3);
  Sums<T> con_ih(chunks, c3 * con_in), con_hh(chunks, c3 * s.con), con_bias(chunks, c3);
  Sums<T> co_weight(chunks, co2 * s.con), co_bias(chunks, co2), fac_weight(chunks, s.fac * s.gen);
  divide(b, int(s.threads), [&](Index first, Index rows, Index chunk) {
    Scratch scratch;
    const Index slots = std::max<Index>(1, std::min(s.bins, ROWS / rows)), all = slots * rows;
    T *chunk_gen_ih = gen_ih.of(chunk), *chunk_gen_hh = gen_hh.of(chunk);
    T *chunk_gen_bias = gen_bias.of(chunk), *chunk_fac_weight = fac_weight.of(chunk);
    T *chunk_con_ih = con_ih.of(chunk), *chunk_con_hh = con_hh.of(chunk);
    T *chunk_con_bias = con_bias.of(chunk), *chunk_co_weight = co_weight.of(chunk);
    T* chunk_co_bias = co_bias.of(chunk);
    T *gen_grads = scratch.take<T>(all * g3), *gen_olds = scratch.take<T>(all * s.gen);
    T *gen_resets = scratch.take<T>(all * s.gen), *gen_ins = scratch.take<T>(all * n_in);
    T *fac_grads = scratch.take<T>(all * s.fac), *masked_states = scratch.take<T>(all * s.gen);
    T *con_grads = scratch.take<T>(all * c3), *con_olds = scratch.take<T>(all * s.con);
    T *con_resets = scratch.take<T>(all * s.con), *con_ins = scratch.take<T>(all * con_in);
    T *co_grads = scratch.take<T>(all * co2), *con_news = scratch.take<T>(all * s.con);
    T* grad_reset = scratch.take<T>(rows * std::max(s.gen, s.con));
    T* grad_masked = scratch.take<T>(rows * s.gen);
    T* grad_in = scratch.take<T>(rows * n_in);
    T* carry_f = scratch.zeros<T>(rows * s.fac);
    T* carry_g = d.gen_0 + first * s.gen;
    T* carry_c = use_con ? d.con_0 + first * s.con : nullptr;
    std::fill(carry_g, carry_g + rows * s.gen, T(0));
    if (use_con) std::fill(carry_c, carry_c + rows * s.con, T(0));
    Index slot = 0;
    const auto incoming = [&](int which, Index t) {
      const T* grad = d.incoming[which];
      return grad ? grad + t * d.bin[which] + first * d.trial[which] : nullptr;
    };
    for (Index t = s.bins - 1; t >= 0; t--) {
      const Index row = t * b + first, next = row + b, at = slot * rows;
      // From the factors to the generator's state.
      T* df = fac_grads + at * s.fac;
      std::memcpy(df, carry_f, size_t(rows * s.fac) * sizeof(T));
      add_rows(rows, s.fac, incoming(FACTORS, t), d.trial[FACTORS], df);
      const uint8_t* keep_g = a.keep_g ? a.keep_g + row * s.gen : nullptr;
      masked(rows, s.gen, a.gen_states + next * s.gen, keep_g, scale, masked_states + at * s.gen,
             s.gen);
      if (keep_g) {
        from_fac.multiply(rows, df, s.fac, false, grad_masked, s.gen);
        add_masked(rows * s.gen, grad_masked, keep_g, scale, carry_g);
      } else {
        from_fac.multiply(rows, df, s.fac, true, carry_g, s.gen);
      }
      add_rows(rows, s.gen, incoming(GEN_STATES, t), d.trial[GEN_STATES], carry_g);
      // From the generator's state to its inputs.
      T* dg = gen_grads + at * g3;
      gen.back(rows, a.gen_gates + row * g3, a.gen_states + row * s.gen, carry_g, dg,
               gen_olds + at * s.gen, gen_resets + at * s.gen, grad_reset, chunk_gen_bias);
      copy_rows(rows, n_in, a.gen_inputs + row * n_in, n_in, gen_ins + at * n_in, n_in);
      if (use_con || d.ext) {
        to_gen_in.multiply(rows, dg, g3, false, grad_in, n_in);
        add_rows(rows, n_in, incoming(GEN_INPUTS, t), d.trial[GEN_INPUTS], grad_in);
      }
      if (d.ext)
        copy_rows(rows, s.ext, grad_in + s.co, n_in, d.ext + (first * s.bins + t) * s.ext,
                  s.bins * s.ext);
      if (use_con) {
        // From the sampled controller output to the controller's state.
        T* dco = co_grads + at * co2;
        const T *to_mean = incoming(CO_MEANS, t), *to_std = incoming(CO_STDS, t);
        for (Index i = 0; i < rows; i++)
          for (Index j = 0; j < s.co; j++) {
            const Index k = (row + i) * s.co + j;
            const T grad = grad_in[i * n_in + j];
            T grad_std = a.noise ? grad * a.noise[k] : T(0);
            if (to_std) grad_std += to_std[i * d.trial[CO_STDS] + j];
            const T grad_mean = grad + (to_mean ? to_mean[i * d.trial[CO_MEANS] + j] : T(0));
            const T grad_logvar = T(0.5) * a.co_stds[k] * grad_std;
            dco[i * co2 + j] = grad_mean;
            dco[i * co2 + s.co + j] = grad_logvar;
            chunk_co_bias[j] += grad_mean;
            chunk_co_bias[s.co + j] += grad_logvar;
          }
        from_co.multiply(rows, dco, co2, true, carry_c, s.con);
        add_rows(rows, s.con, incoming(CON_STATES, t), d.trial[CON_STATES], carry_c);
        std::memcpy(con_news + at * s.con, a.con_states + next * s.con,
                    size_t(rows * s.con) * sizeof(T));
        // From the controller's state to its inputs.
        T* dc = con_grads + at * c3;
        con.back(rows, a.con_gates + row * c3, a.con_states + row * s.con, carry_c, dc,
                 con_olds + at * s.con, con_resets + at * s.con, grad_reset, chunk_con_bias);
        const Index ci = first * s.ci_trial + t * s.ci_bin;
        if (d.ci) con_to_ci.multiply(rows, dc, c3, false, d.ci + ci, s.ci_trial);
        const uint8_t* keep_f = a.keep_f ? a.keep_f + row * s.fac : nullptr;
        con_to_fac.multiply(rows, dc, c3, false, carry_f, s.fac);
        if (keep_f) masked(rows, s.fac, carry_f, keep_f, scale, carry_f, s.fac);
        copy_rows(rows, s.ci, a.ci + ci, s.ci_trial, con_ins + at * con_in, con_in);
        masked(rows, s.fac, a.factors + row * s.fac, keep_f, scale, con_ins + at * con_in + s.ci,
               con_in);
      }
      if (++slot < slots && t > 0) continue;
      const Index n = slot * rows;
      slot = 0;
      gen.weight_gradient(n, gen_grads, gen_olds, gen_resets, chunk_gen_hh);
      add_transposed_product(g3, n_in, n, gen_grads, g3, gen_ins, n_in, chunk_gen_ih, n_in);
      add_transposed_product(s.fac, s.gen, n, fac_grads, s.fac, masked_states, s.gen,
                             chunk_fac_weight, s.gen);
      if (!use_con) continue;
      con.weight_gradient(n, con_grads, con_olds, con_resets, chunk_con_hh);
      add_transposed_product(c3, con_in, n, con_grads, c3, con_ins, con_in, chunk_con_ih, con_in);
      add_transposed_product(co2, s.con, n, co_grads, co2, con_news, s.con, chunk_co_weight, s.con);
    }
    std::memcpy(d.fac_0 + first * s.fac, carry_f, size_t(rows * s.fac) * sizeof(T));
  });
  gen_ih.add_up(d.gen_ih);
  gen_hh.add_up(d.gen_hh);
  gen_bias.add_up(d.gen_bias);
  fac_weight.add_up(d.fac_weight);
  if (!use_con) return;
  con_ih.add_up(d.con_ih);
  con_hh.add_up(d.con_hh);
  con_bias.add_up(d.con_bias);
  co_weight.add_up(d.co_weight);
  co_bias.add_up(d.co_bias);
}
