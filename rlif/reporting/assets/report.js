// Browses the completions in #data. Everything from there is put on screen by textContent, never parsed as markup.
(() => {
  const runs = data.runs;
  const choice = { run: 0, beside: -1, step: 0, problem: "", kind: "all", order: -1 };

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
    facts.append(element("bdi", "", completion.answer === null ? "no answer" : `answer: ${completion.answer}`));
    if (completion.right === false && completion.gold !== null) facts.append(element("bdi", "gold", `gold: ${completion.gold}`));
    made.append(facts, shaded(completion, run));
    if (completion.cut) made.append(element("p", "quiet", "The rest of this completion is left out."));
    return made;
  };

  const stated = (problem) => {
    const prompt = element("div", "prompt");
    for (const turn of problem.prompt) {
      if (turn.role) prompt.append(element("div", "role", turn.role));
      const text = element("pre", "text", turn.text);
      text.dir = "auto";
      prompt.append(text);
    }
    return prompt;
  };

  const kept = (problem) => {
    const chosen = problem.completions.filter(kinds[choice.kind]);
    const rank = ({ advantage }) => (advantage === null ? Infinity : choice.order * advantage);
    return choice.order ? chosen.sort((a, b) => (rank(a) === rank(b) ? 0 : rank(a) - rank(b))) : chosen;
  };
  const key = (problem) => JSON.stringify(problem.prompt);

  // The kept step of a run that is nearest to that of the run first chosen.
  const entryOf = (run) => {
    const wanted = runs[choice.run].steps[choice.step];
    return wanted && run.steps.length ? run.steps[nearest(run.steps.map((entry) => entry.step), wanted.step)] : null;
  };

  const show = () => {
    const shown = [choice.run, choice.beside].filter((i) => i >= 0).map((i) => ({ run: runs[i], entry: entryOf(runs[i]) }));
    const { run } = shown[0];
    at("note").textContent = shown.map((pane) => (shown.length > 1 ? `${pane.run.name}: ` : "") + pane.run.note).join(" ");
    at("previous").disabled = choice.step <= 0;
    at("next").disabled = choice.step >= run.steps.length - 1;
    at("scale").hidden = run.low === null;
    if (run.low !== null) {
      at("low").textContent = `${run.low} or less`;
      at("high").textContent = `${run.high} or more`;
    }
    const rows = new Map();
    shown.forEach(({ entry }, pane) => (entry ? entry.problems : []).forEach((problem) => {
      if (choice.problem && key(problem) !== choice.problem) return;
      rows.set(key(problem), Object.assign(rows.get(key(problem)) ?? [], { [pane]: problem }));
    }));
    const all = [...rows.values()].flatMap((row) => row.filter(Boolean)).flatMap((problem) => problem.completions);
    for (const count of document.querySelectorAll("[data-count]")) count.textContent = `(${all.filter(kinds[count.dataset.count]).length})`;
    const blocks = [...rows.values()].filter((row) => row.some((problem) => kept(problem).length)).map((row) => {
      const made = element("div", "problem"), panes = element("div", "panes");
      made.append(stated(row.find(Boolean)), panes);
      shown.forEach(({ run: own, entry }, pane) => {
        const cards = element("div", "cards"), chosen = row[pane] ? kept(row[pane]) : [];
        cards.append(...chosen.map((completion) => card(completion, own)));
        const column = element("div", "pane");
        if (shown.length > 1) column.append(element("p", "title", entry ? `${own.name}, step ${entry.step}` : own.name));
        if (!chosen.length) column.append(element("p", "quiet", row[pane] ? "No such completion here." : "Not among its completions on this page."));
        column.append(cards);
        panes.append(column);
      });
      return made;
    });
    at("cards").replaceChildren(...(blocks.length ? blocks : [element("p", "missing", "No such completion here.")]));
  };

  const chooseStep = (step) => {
    const entry = runs[choice.run].steps[step];
    choice.step = step;
    choice.problem = "";
    at("step").value = step;
    const named = (entry ? entry.problems : []).map((problem, i) => [key(problem), problem.id || `problem ${i + 1}`]);
    options(at("problem"), [["", "all shown"], ...named], "");
    show();
  };
  // A choice of a step here moves the figures too.
  const goTo = (step) => moveTo(runs[choice.run].steps[step].step);

  const chooseRun = (run) => {
    choice.run = run;
    const steps = runs[run].steps.map((entry) => entry.step);
    options(at("step"), steps.map((step, i) => [i, step]), 0);
    options(at("beside"), [[-1, "none"], ...runs.map((other, i) => [i, other.name]).filter(([i]) => i !== run)], choice.beside === run ? (choice.beside = -1) : choice.beside);
    chooseStep(steps.length ? nearest(steps, view.step) : 0);
  };

  if (!runs.length) return;
  at("browser").hidden = false;
  for (const label of document.querySelectorAll(".several")) label.hidden = runs.length < 2;
  options(at("run"), runs.map((run, i) => [i, run.name]), 0);
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("run").addEventListener("change", (event) => chooseRun(Number(event.target.value)));
  at("step").addEventListener("change", (event) => goTo(Number(event.target.value)));
  at("previous").addEventListener("click", () => goTo(choice.step - 1));
  at("next").addEventListener("click", () => goTo(choice.step + 1));
  const chosen = (name, value) => {
    choice[name] = value;
    show();
  };
  at("problem").addEventListener("change", (event) => chosen("problem", event.target.value));
  at("beside").addEventListener("change", (event) => chosen("beside", Number(event.target.value)));
  at("order").addEventListener("change", (event) => chosen("order", Number(event.target.value)));
  for (const radio of document.querySelectorAll("[name=kind]")) radio.addEventListener("change", () => chosen("kind", radio.value));
  view.listeners.push(() => {
    const steps = runs[choice.run].steps.map((entry) => entry.step);
    const step = steps.length ? nearest(steps, view.step) : 0;
    if (step !== choice.step) chooseStep(step);
  });
  choice.beside = runs.length > 1 ? 1 : -1;
  chooseRun(0);
})();
