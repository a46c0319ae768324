// The one script: a live timeline. Without it every page works; nothing here builds a page from a guest's words.
"use strict";
(() => {
  // Sums that are still being counted are shown anew, unless somebody is writing or has gone on reading below.
  if (document.body.dataset.reading) {
    const again = () => (document.activeElement?.tagName === "INPUT" || scrollY > 200 ? setTimeout(again, 2000) : location.reload());
    setTimeout(again, 2000);
  }
  const rows = document.getElementById("rows");
  const fetched = async (url) => {
    const answer = await fetch(url, { credentials: "same-origin" });
    return answer.ok ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
  };

  // A question that takes long is answered piece by piece, until a page is full or nothing is left.
  const PAGE = 50;
  const lookOn = async () => {
    for (let step = 0; step < 10000; step += 1) {
      const mark = document.getElementById("further");
      if (!mark || !("back" in mark.dataset) || rows.querySelectorAll("li.row").length >= PAGE) return;
      mark.setAttribute("aria-busy", "true");
      const url = new URL(mark.querySelector("a").href);
      url.pathname = "/rows";
      const parsed = await fetched(url);
      if (!parsed) return;
      for (const list of parsed.querySelectorAll("ol.events")) {
        const last = [...rows.querySelectorAll("ol.events")].pop();
        if (last && last.dataset.day === list.dataset.day) last.append(...[...list.children].map((one) => document.adoptNode(one)));
        else mark.before(document.adoptNode(list.previousElementSibling), document.adoptNode(list));
      }
      const next = parsed.getElementById("further") ?? (rows.querySelector("li.row") ? null : parsed.querySelector(".none"));
      if (next) mark.replaceWith(document.adoptNode(next));
      else mark.remove();
    }
  };
  if (rows) lookOn().catch(() => {});

  const button = document.getElementById("live");
  if (!button || !button.dataset.live) return;
  const said = document.getElementById("said");
  const MOST = 200;
  let source = null;
  let newest = button.dataset.newest;
  let counted = 0;

  const at = (path, after) => {
    const url = new URL(button.dataset.live, location.href);
    url.pathname = path;
    if (after) url.searchParams.set("after", after);
    return url;
  };

  const add = async () => {
    const parsed = await fetched(at("/rows", newest));
    const lists = [...(parsed?.querySelectorAll("ol.events") ?? [])];
    const more = parsed?.querySelector("#further[data-at]");
    if (!lists.length) {
      if (!more) return;
      newest = more.dataset.at;
      return add();
    }
    rows.querySelector(".none")?.remove();
    let count = 0;
    for (const list of lists.reverse()) {
      const first = rows.querySelector("ol.events");
      const items = [...list.children];
      count += items.length;
      if (first && first.dataset.day === list.dataset.day) {
        for (const item of items.reverse()) first.prepend(document.adoptNode(item));
      } else {
        const heading = list.previousElementSibling;
        rows.prepend(document.adoptNode(heading), document.adoptNode(list));
      }
    }
    const link = rows.querySelector("li.row a");
    newest = link ? decodeURIComponent(link.getAttribute("href").split("/").pop()) : newest;
    for (const old of [...rows.querySelectorAll("li.row")].slice(MOST)) old.remove();
    counted += count;
    said.textContent = `${counted} new since it is live`;
  };

  let adding = Promise.resolve();
  const stop = (text) => {
    source?.close();
    source = null;
    button.setAttribute("aria-pressed", "false");
    said.textContent = text;
  };
  const start = () => {
    counted = 0;
    source = new EventSource(at("/live", newest));
    source.onmessage = () => { adding = adding.then(add).catch(() => stop("The page's command has ended.")); };
    source.onerror = () => { if (source && source.readyState === EventSource.CLOSED) stop("The page's command has ended."); };
    button.setAttribute("aria-pressed", "true");
    said.textContent = "Waiting for new events";
  };
  button.hidden = false;
  button.addEventListener("click", () => (source ? stop("") : start()));
  addEventListener("pagehide", () => source?.close());
})();
