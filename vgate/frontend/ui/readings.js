// What two answers of /stats say about the time between them.

const WINDOW_S = 5; // for rates: engines tell their counts four times a second, each worker for itself
const LONG_WINDOW_S = 30; // for percentiles and shares, of which a few seconds have too few

/** Return the bucket counts between two histograms, or null if the engine or the server began anew. */
function between(earlier, later) {
  if (!earlier?.counts.length) return later?.counts ?? [];
  const counts = later.counts.map((count, index) => count - earlier.counts[index]);
  return counts.some((count) => count < 0) ? null : counts;
}

const sum = (counts) => counts.reduce((total, count) => total + count, 0);

/** Return the value below which the share `q` of the observations are; within a bucket it is linear. */
export function quantile(q, counts, bounds) {
  const total = counts ? sum(counts) : 0;
  if (!total) return null;
  let rest = q * total;
  for (let index = 0; index < counts.length; index++) {
    if (rest <= counts[index] && counts[index]) {
      const low = index ? bounds[index - 1] : 0;
      return index < bounds.length ? low + (bounds[index] - low) * (rest / counts[index]) : low;
    }
    rest -= counts[index];
  }
  return bounds.at(-1);
}

/** Keeps the answers of the last half minute and reads rates, percentiles and shares off them. */
export class Readings {
  #kept = [];

  /** Take an answer of /stats and return what to show. */
  read(stats, at) {
    this.#kept.push({ stats, at });
    while (this.#kept[0].at < at - LONG_WINDOW_S) this.#kept.shift();
    const recent = this.#kept.findLast((each) => each.at <= at - WINDOW_S) ?? this.#kept[0];
    const first = this.#kept[0];
    const engines = stats.engines ?? [];
    const total = (name) => engines.reduce((all, engine) => all + engine[name], 0);
    const { inter_token_s: gaps, ttft_s: ttft } = stats.histograms ?? {};
    const tokens = gaps && between(recent.stats.histograms.inter_token_s, gaps);
    const gapCounts = gaps && between(first.stats.histograms.inter_token_s, gaps);
    const ttftCounts = ttft && between(first.stats.histograms.ttft_s, ttft);
    return {
      tokensPerS: tokens && at > recent.at ? sum(tokens) / (at - recent.at) : null,
      running: total("running"),
      waiting: total("waiting"),
      kv: engines.length ? Math.max(...engines.map((engine) => engine.kv_cache_usage)) : null,
      ttft: [0.5, 0.95, 0.99].map((q) => quantile(q, ttftCounts, ttft?.bounds)),
      gaps: [0.5, 0.95, 0.99].map((q) => quantile(q, gapCounts, gaps?.bounds)),
      hits: share(stats.cache.hits - first.stats.cache.hits, stats.cache.misses - first.stats.cache.misses),
      prefixHits: stats.prefix_cache
        ? part(stats.prefix_cache.hits - first.stats.prefix_cache.hits, stats.prefix_cache.queries - first.stats.prefix_cache.queries)
        : null,
    };
  }
}

const part = (some, all) => (all > 0 && some >= 0 ? some / all : null);
const share = (hits, misses) => part(hits, hits + misses);
