// The one script: a live timeline. Without it every page works; nothing here builds a page from a guest's words.
"use strict";
(() => {
  // Sums that are still being counted are shown anew, unless somebody is writing or has gone on reading below.
  if (document.body.dataset.reading) {
    const again = () => (document.activeElement?.tagName === "INPUT" || scrollY > 200 ? setTimeout(again, 2000) : location.reload());
    setTimeout(again, 2000);
  }
  const button = document.getElementById("live");
  if (!button || !button.dataset.live) return;
  const said = document.getElementById("said");
  const rows = document.getElementById("rows");
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
    const answer = await fetch(at("/rows", newest), { credentials: "same-origin" });
    if (!answer.ok) return;
    const parsed = new DOMParser().parseFromString(await answer.text(), "text/html");
    const lists = [...parsed.querySelectorAll("ol.events")];
    if (!lists.length) return;
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
