"""The page's part of the blind comparison: plain HTML and JavaScript that fetches nothing."""

MARKUP = """
<div class="votes" id="votes">
<noscript><p>This comparison needs JavaScript.</p></noscript>
<p>Two pictures of the same text and seed, names hidden, sides and order random. Your votes stay in this browser until
you export them.</p>
<div class="vote-task" hidden>
<p class="vote-references"></p>
<p class="vote-text"></p>
<div class="vote-pair"><img data-side="0" alt="left picture"><img data-side="1" alt="right picture"></div>
<div class="vote-questions"></div>
</div>
<p class="vote-status" role="status"></p>
<p class="vote-buttons">
<button type="button" data-do="next" disabled>Next pair</button>
<button type="button" data-do="results" aria-expanded="false">Show results and names</button>
<button type="button" data-do="export">Export votes as JSON</button>
<button type="button" data-do="clear">Delete my votes</button>
</p>
<div class="vote-results wide" hidden></div>
<script type="application/json" id="votes-data">{data}</script>
</div>
"""

STYLE = """
.vote-pair { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; max-width: 780px; margin: 0 auto .8rem }
.vote-pair img { width: 100%; image-rendering: auto }
.vote-pair img.small, .vote-references img.small { image-rendering: pixelated }
.vote-references { display: flex; gap: .5rem; align-items: center; flex-wrap: wrap }
.vote-references img { width: 96px; margin: 0 }
.vote-text { font-size: 1.1em; text-align: center }
.vote-question { display: grid; grid-template-columns: 1fr auto auto auto; gap: .4rem; align-items: center;
  max-width: 780px; margin: 0 auto .4rem }
.votes button { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--rule);
  border-radius: 6px; padding: .3rem .8rem; cursor: pointer }
.votes button:disabled { opacity: .45; cursor: default }
.votes button[aria-pressed=true] { background: #2a6fdb; border-color: #2a6fdb; color: #fff }
.votes button:focus-visible { outline: 2px solid #2a6fdb; outline-offset: 2px }
.vote-buttons { display: flex; gap: .5rem; flex-wrap: wrap; margin-top: .8rem }
.vote-status { color: var(--faint); text-align: center }
@media (max-width: 560px) { .vote-question { grid-template-columns: 1fr 1fr 1fr }
  .vote-question span { grid-column: 1 / -1 } }
"""

SCRIPT = """
"use strict";
(() => {
  const root = document.getElementById("votes");
  const data = JSON.parse(document.getElementById("votes-data").textContent);
  const find = (name) => root.querySelector(name);
  const place = "fewshot-votes-" + data.key;
  const stored = () => { try { return JSON.parse(localStorage.getItem(place)); } catch { return null; } };
  const fresh = () => {
    const order = data.pairs.map((_, number) => number);
    for (let i = order.length - 1; i > 0; i--) {
      const j = crypto.getRandomValues(new Uint32Array(1))[0] % (i + 1);
      [order[i], order[j]] = [order[j], order[i]];
    }
    const turned = order.map(() => crypto.getRandomValues(new Uint8Array(1))[0] % 2 === 1);
    return { order, turned, votes: {}, at: 0 };
  };
  let state = stored() ?? fresh();
  let kept = true;
  const keep = () => { try { localStorage.setItem(place, JSON.stringify(state)); } catch { kept = false; } };
  const key = (pair, question) => pair + "/" + question;
  const make = (kind, text, into) => {
    const made = document.createElement(kind);
    made.textContent = text;
    into.append(made);
    return made;
  };
  const small = (image) => image.addEventListener("load",
    () => image.classList.toggle("small", image.naturalWidth <= 128));
  root.querySelectorAll(".vote-pair img").forEach(small);
  for (const source of data.references) {
    const image = make("img", "", find(".vote-references"));
    small(image);
    image.src = source;
    image.alt = "reference";
  }

  function tell() {
    const over = state.at >= state.order.length;
    const done = data.pairs.filter((_, pair) => answered(pair)).length;
    find(".vote-status").textContent = data.pairs.length === 0 ? "There is nothing to compare."
      : (over ? "All pairs have been shown. " : "Pair " + (state.at + 1) + " of " + state.order.length + ". ")
        + done + " answered." + (kept ? "" : " This browser keeps no votes: export them before you close the page.");
  }

  function show() {
    tell();
    const over = state.at >= state.order.length;
    find(".vote-task").hidden = over;
    if (over) { find("[data-do=next]").disabled = true; return; }
    const pair = state.order[state.at], turned = state.turned[state.at], told = data.pairs[pair];
    const sides = turned ? [told.b, told.a] : [told.a, told.b];
    root.querySelectorAll(".vote-pair img").forEach((image, side) => { image.src = data.pictures[sides[side]]; });
    find(".vote-text").textContent = told.text;
    const box = find(".vote-questions");
    box.replaceChildren();
    for (const question of data.questions) {
      const row = make("div", "", box);
      row.className = "vote-question";
      make("span", question.text, row);
      for (const [label, side] of [["Left", 0], ["Same", null], ["Right", 1]]) {
        const choice = side === null ? "same" : (side === 1) !== turned ? "b" : "a";
        const button = make("button", label, row);
        button.type = "button";
        button.setAttribute("aria-pressed", String(state.votes[key(pair, question.id)] === choice));
        button.setAttribute("aria-label", question.text + " " + label);
        button.addEventListener("click", () => {
          state.votes[key(pair, question.id)] = choice;
          keep();
          row.querySelectorAll("button").forEach((other) =>
            other.setAttribute("aria-pressed", String(other === button)));
          find("[data-do=next]").disabled = !answered(pair);
          tell();
          if (!find(".vote-results").hidden) results();
        });
      }
    }
    find("[data-do=next]").disabled = !answered(pair);
  }

  function answered(pair) {
    return data.questions.every((question) => state.votes[key(pair, question.id)] !== undefined);
  }

  function votes() {
    const found = [];
    data.pairs.forEach((told, pair) => data.questions.forEach((question) => {
      const choice = state.votes[key(pair, question.id)];
      if (choice === undefined) return;
      const [a, b] = told.names.map((number) => data.names[number]);
      const winner = choice === "same" ? null : choice === "a" ? a : b;
      found.push({ question: question.id, text: told.text, a, b, pictures: [told.a, told.b], winner });
    }));
    return found;
  }

  function wilson(wins, total) {
    const z = 1.959963984540054, share = wins / total, spread = z * z / total;
    const middle = (share + spread / 2) / (1 + spread);
    const half = Math.sqrt(spread * share * (1 - share) + spread * spread / 4) / (1 + spread);
    return [share, Math.max(0, middle - half), Math.min(1, middle + half)];
  }

  function rates() {
    const rows = new Map();
    for (const { question, a, b, winner } of votes()) {
      const name = JSON.stringify([question, a, b]);
      const row = rows.get(name) ?? { question, a, b, wins: 0, votes: 0, same: 0 };
      if (winner === null) row.same += 1;
      else { row.votes += 1; row.wins += winner === a ? 1 : 0; }
      rows.set(name, row);
    }
    return [...rows.values()].map((row) => {
      const [rate, low, high] = row.votes ? wilson(row.wins, row.votes) : [null, null, null];
      return { ...row, rate, interval: [low, high] };
    });
  }

  function results() {
    const box = find(".vote-results");
    box.replaceChildren();
    const table = make("table", "", box);
    const head = make("tr", "", make("thead", "", table));
    for (const name of ["question", "first", "second", "first wins", "95 % interval", "votes", "same"]) {
      make("th", name, head);
    }
    const body = make("tbody", "", table), found = rates();
    const percent = (value) => Math.round(100 * value);
    for (const { question, a, b, votes, same, rate, interval } of found) {
      const line = make("tr", "", body);
      const shown = rate === null ? ["–", "–"]
        : [percent(rate) + " %", percent(interval[0]) + " to " + percent(interval[1]) + " %"];
      [question, a, b, ...shown, votes, same].forEach((cell) => make("td", String(cell), line));
    }
    if (found.length === 0) make("p", "No votes yet.", box);
  }

  function save() {
    const told = { key: data.key, names: data.names, questions: data.questions, pairs: data.pairs.length,
      win_rates: rates(), votes: votes() };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(told, null, 2)], { type: "application/json" }));
    link.download = "votes-" + data.key.slice(0, 8) + ".json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  find("[data-do=next]").addEventListener("click", () => { state.at += 1; keep(); show(); });
  find("[data-do=results]").addEventListener("click", (event) => {
    const box = find(".vote-results");
    box.hidden = !box.hidden;
    event.target.setAttribute("aria-expanded", String(!box.hidden));
    event.target.textContent = box.hidden ? "Show results and names" : "Hide results";
    if (!box.hidden) results();
  });
  find("[data-do=export]").addEventListener("click", save);
  find("[data-do=clear]").addEventListener("click", () => {
    if (!confirm("Delete all votes of this comparison?")) return;
    state = fresh();
    keep();
    show();
    if (!find(".vote-results").hidden) results();
  });
  keep();
  show();
})();
"""
