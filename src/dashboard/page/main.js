// Asks the node for news and hands them to the views. What fails is tried again; the page says since when.

import { byId, say } from "./draw.js";
import * as status from "./status.js";
import * as timeline from "./timeline.js";
import * as breakdown from "./breakdown.js";
import * as latency from "./latency.js";
import * as chunk from "./chunk.js";

const PATIENCE_MS = 4000;

/** The number of the first cycle that is not known yet. */
let nextCycle = 0;
let lastAnswer = Date.now();
let budgetMs = 50;

async function ask(path) {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

async function askStatus() {
  const news = await ask("/api/status");
  lastAnswer = Date.now();
  budgetMs = news.node.budget_ms;
  status.show(news);
}

async function askCycles() {
  const news = await ask(`/api/cycles?from=${nextCycle}`);
  if (news.next < nextCycle) {
    // The node was started anew, and counts from 0 again.
    timeline.forget();
    breakdown.forget();
    nextCycle = 0;
    return;
  }
  nextCycle = news.next;
  timeline.show(news, budgetMs);
  breakdown.show(news, budgetMs);
}

async function askLatency() {
  const news = await ask("/api/latency");
  latency.show(news);
  status.showEndToEnd(news);
}

async function askChunk() {
  chunk.show(await ask("/api/chunk"));
}

/** Asks every `interval` milliseconds while somebody looks; never twice at a time. */
async function repeat(interval, question) {
  for (;;) {
    if (!document.hidden) {
      try {
        await question();
      } catch {
        // Told below when it lasts.
      }
    }
    await new Promise((resolve) => setTimeout(resolve, interval));
  }
}

function watchConnection() {
  const silent = Date.now() - lastAnswer;
  if (silent > 3000 && !document.hidden) {
    const state = byId("state");
    state.dataset.state = "gone";
    state.dataset.warning = "true";
    say(byId("state-word"), "No answer");
    say(byId("state-why"), `the node has not answered for ${Math.round(silent / 1000)} s; what stands below is from then`);
  }
}

document.addEventListener("visibilitychange", () => {
  // Nobody asked while it was hidden.
  lastAnswer = Date.now();
});
repeat(500, askStatus);
repeat(500, askCycles);
repeat(1000, askLatency);
repeat(500, askChunk);
setInterval(watchConnection, 1000);
