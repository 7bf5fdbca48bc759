"use strict";
// Browses the completions in #data. Everything from there is put on screen by textContent, never parsed as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const runs = data.runs;
  const choice = { run: 0, step: 0, problem: -1, kind: "all" };

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const kinds = {
    all: () => true,
    right: (c) => c.right === true,
    wrong: (c) => c.right === false,
    truncated: (c) => c.truncated,
    ungraded: (c) => c.right === null,
  };
  const verdict = (c) => (c.right === true ? "\u2713 right" : c.right === false ? "\u2717 wrong" : "ungraded");
  const figure = (value, digits) => (value === null ? "-" : value.toFixed(digits));

  const options = (select, labels, chosen) => {
    select.replaceChildren(...labels.map(([value, label]) => {
      const option = element("option", "", label);
      option.value = value;
      return option;
    }));
    select.value = chosen;
  };

  const shaded = (completion, run) => {
    const text = element("pre", "text");
    text.dir = "auto";
    text.tabIndex = 0;
    if (!completion.pieces) {
      text.textContent = completion.text;
      return text;
    }
    const width = run.high - run.low || 1;
    for (const [piece, nats] of completion.pieces) {
      const span = element("span", "", piece || "\u25a0");
      if (nats !== null) {
        const share = Math.min(1, Math.max(0, (nats - run.low) / width));
        span.style.backgroundColor = `rgba(var(--sure), ${(0.55 * share).toFixed(3)})`;
        span.title = `${nats.toFixed(2)} nats${piece ? "" : ", end of sequence"}`;
      }
      text.append(span);
    }
    return text;
  };

  const card = (completion, run) => {
    const made = element("article", "card");
    const facts = element("p", "facts");
    facts.append(element("b", "", verdict(completion)));
    if (completion.truncated) facts.append(element("b", "", "\u2702 truncated"));
    facts.append(element("span", "", `reward ${figure(completion.reward, 3)}`));
    facts.append(element("span", "", `advantage ${figure(completion.advantage, 2)}`));
    if (completion.tokens !== null) facts.append(element("span", "", `${completion.tokens} tokens`));
    const answer = element("bdi", "", completion.answer === null ? "no answer" : `answer: ${completion.answer}`);
    facts.append(answer);
    made.append(facts, shaded(completion, run));
    if (completion.cut) made.append(element("p", "quiet", "The rest of this completion is left out."));
    return made;
  };

  const block = (problem, run, chosen) => {
    const made = element("div", "problem");
    const prompt = element("div", "prompt");
    for (const turn of problem.prompt) {
      if (turn.role) prompt.append(element("div", "role", turn.role));
      const text = element("pre", "text", turn.text);
      text.dir = "auto";
      prompt.append(text);
    }
    const cards = element("div", "cards");
    cards.append(...chosen.map((completion) => card(completion, run)));
    made.append(prompt, cards);
    return made;
  };

  const show = () => {
    const run = runs[choice.run];
    const steps = run.steps;
    const step = steps[choice.step];
    at("note").textContent = run.note;
    at("previous").disabled = choice.step <= 0;
    at("next").disabled = choice.step >= steps.length - 1;
    at("scale").hidden = run.low === null;
    if (run.low !== null) {
      at("low").textContent = `${run.low} or less`;
      at("high").textContent = `${run.high} or more`;
    }
    const problems = step ? (choice.problem < 0 ? step.problems : [step.problems[choice.problem]]) : [];
    for (const count of document.querySelectorAll("[data-count]")) {
      const kept = problems.flatMap((problem) => problem.completions).filter(kinds[count.dataset.count]);
      count.textContent = `(${kept.length})`;
    }
    const blocks = problems
      .map((problem) => [problem, problem.completions.filter(kinds[choice.kind])])
      .filter(([, chosen]) => chosen.length)
      .map(([problem, chosen]) => block(problem, run, chosen));
    at("cards").replaceChildren(...(blocks.length ? blocks : [element("p", "missing", "No such completion here.")]));
  };

  const chooseStep = (step) => {
    const entry = runs[choice.run].steps[step];
    choice.step = step;
    choice.problem = -1;
    at("step").value = step;
    const named = (entry ? entry.problems : []).map((problem, i) => [i, problem.id || `problem ${i + 1}`]);
    options(at("problem"), [[-1, "all shown"], ...named], -1);
    show();
  };

  const chooseRun = (run) => {
    choice.run = run;
    const before = runs[run].steps.findIndex((entry) => entry.step >= (choice.at || 0));
    options(at("step"), runs[run].steps.map((entry, i) => [i, entry.step]), 0);
    chooseStep(Math.max(0, before));
  };

  if (!runs.length) return;
  at("browser").hidden = false;
  at("run-label").hidden = runs.length < 2;
  options(at("run"), runs.map((run, i) => [i, run.name]), 0);
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("run").addEventListener("change", (event) => {
    const entry = runs[choice.run].steps[choice.step];
    choice.at = entry ? entry.step : 0;
    chooseRun(Number(event.target.value));
  });
  at("step").addEventListener("change", (event) => chooseStep(Number(event.target.value)));
  at("previous").addEventListener("click", () => chooseStep(choice.step - 1));
  at("next").addEventListener("click", () => chooseStep(choice.step + 1));
  at("problem").addEventListener("change", (event) => {
    choice.problem = Number(event.target.value);
    show();
  });
  for (const radio of document.querySelectorAll("[name=kind]")) {
    radio.addEventListener("change", (event) => {
      choice.kind = event.target.value;
      show();
    });
  }
  chooseRun(0);
})();
