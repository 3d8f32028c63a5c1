// The state of the page, the stream that updates it, and when it is drawn.

const cards = new Map(); // by the lock's name
let names = [];          // of all locks, in order
let clock;               // how far Caddy's clock is ahead of the browser's, in ms
let taken;               // the number of the last sample
let version;             // of this page
const byId = id => document.getElementById(id);

const now = () => (Date.now() + (clock ?? 0)) / 1000;

// The stream. EventSource connects again by itself, as after a reload. But it does not after
// every failure, and it does not notice that a connection is silent.
const silence = 5000, giveUp = 15000;
let stream, last = Date.now(), since, lost = false;

function connect() {
	stream?.close();
	stream = new EventSource(location.href); // not the path alone: one that begins with two slashes would be a host
	last = Date.now();
	for (const [event, hear] of Object.entries({ history, locks, sample })) {
		stream.addEventListener(event, message => {
			last = Date.now();
			since = undefined;
			hear(JSON.parse(message.data));
			live();
		});
	}
	stream.addEventListener('error', () => { since ??= Date.now(); });
}

function watch() {
	const silent = Date.now() - last;
	if (silent > silence) since ??= last;
	if (since && (silent > giveUp || stream.readyState === EventSource.CLOSED && silent > 2000)) connect();
	live();
}

function live() {
	lost = since !== undefined && Date.now() - since > 1000; // a reload of the config takes less
	const state = lost ? 'lost' : version ? 'live' : 'wait';
	set(byId('state'), 'data-state', state);
	say(byId('live'), { lost: 'no connection to Caddy, trying again', live: 'live', wait: 'connecting' }[state]);
	say(byId('lost'), lost ? age((Date.now() - since) / 1000) : ''); // not in the status above: a screen reader would say it each second
	document.body.toggleAttribute('data-lost', lost);
	title();
}

// The events of the stream: see stream.go.

function history(update) {
	if (version && version !== update.page) renew(update.page);
	version = update.page;
	taken = update.n;
	for (const card of cards.values()) for (const figure of figures) card.series[figure] = [];
	past = update.locks;
	for (const name of Object.keys(past)) recall(name);
}

// renew loads the page again, because Caddy has another version of it now. It does so once for each
// version: behind a load balancer with two versions of Caddy, the page would load for ever.
function renew(page) {
	const key = 'tcplock page';
	if (sessionStorage.getItem(key) === page) return;
	sessionStorage.setItem(key, page);
	location.reload();
}

let past = {}; // the histories of locks that have no card yet

// recall gives a lock's history to its card.
function recall(name) {
	const card = cards.get(name), series = past[name];
	if (!card || !series) return;
	delete past[name];
	const length = Math.max(...Object.values(series).map(values => values.length));
	for (const figure of figures) card.series[figure] = series[figure] ?? Array(length).fill(blank[figures.indexOf(figure)]);
}

// blank is the sample of a lock at which nothing happens. Caddy does not send it.
const blank = [0, null, null, 0, 0];

function sample(update) {
	const missed = Math.min(seconds, Math.max(0, update.n - taken - 1));
	taken = update.n;
	for (const [name, card] of cards) {
		for (let i = 0; i < missed; i++) card.add(Array(figures.length).fill(null));
		card.add(update.locks[name] ?? blank);
	}
	draw();
}

function locks(update) {
	const ahead = Date.parse(update.now) - Date.now();
	// The message with the least delay is the most exact. After a jump, one of the clocks was set.
	if (clock === undefined || ahead > clock || ahead < clock - 5000) clock = ahead;
	if (update.names) rename(update.names.sort());
	for (const lock of update.locks) {
		const card = cards.get(lock.name);
		card.show(lock);
		stale(card);
	}
	if (update.names) choose();
	sum();
}

// rename adds and removes cards, so that there is one for each of these locks, in this order.
function rename(all) {
	const kept = new Set(all);
	for (const [name, card] of cards) {
		if (kept.has(name)) continue;
		seen.unobserve(card.element);
		card.element.remove();
		cards.delete(name);
	}
	names = all;
	let before = byId('locks').firstElementChild;
	for (const name of all) {
		let card = cards.get(name);
		if (card?.element === before) {
			before = before.nextElementSibling;
			continue;
		}
		if (!card) {
			card = new Card(name, all.length <= few);
			card.element.card = card;
			cards.set(name, card);
			recall(name);
			seen.observe(card.element);
		}
		byId('locks').insertBefore(card.element, before);
	}
	byId('none').hidden = all.length > 0;
	byId('tools').hidden = all.length <= few;
}

function sum() {
	let held = 0, waiting = 0;
	for (const { lock } of cards.values()) {
		held += lock.held;
		waiting += lock.waiting;
	}
	say(byId('sum'), `${location.host} · ${plural(names.length, 'lock')} · ${number(held)} held · ${number(waiting)} waiting`);
	said = waiting ? `${number(waiting)} waiting · ` : '';
	title();
}

let said = '';

function title() {
	const text = `${lost ? 'no connection · ' : said}tcplock`;
	if (document.title !== text) document.title = text;
}

// Drawing: at most once a frame. With many locks, only those in sight are drawn.

const drawn = card => card.inSight || cards.size <= few;

const dirty = new Set();
let asked = false;

const seen = new IntersectionObserver(entries => {
	for (const { target, isIntersecting } of entries) {
		target.card.inSight = isIntersecting;
		if (isIntersecting) stale(target.card);
	}
}, { rootMargin: '300px' });

function stale(card) {
	dirty.add(card);
	if (asked) return;
	asked = true;
	requestAnimationFrame(() => {
		asked = false;
		const at = now();
		for (const card of dirty) if (card.told && drawn(card)) card.draw(at);
		dirty.clear();
	});
}

function draw() {
	for (const card of cards.values()) if (drawn(card)) stale(card);
}

// choose hides the locks that do not match the filter and the choice.
function choose() {
	const text = byId('filter').value.trim().toLowerCase(), which = byId('which').value;
	let shown = 0;
	for (const card of cards.values()) {
		if (!card.told) continue;
		const fits = card.name.toLowerCase().includes(text) && (which === 'all' || (which === 'busy' ? card.busy : marksOf(card.lock, now()).length > 0));
		card.element.hidden = !fits;
		shown += fits;
	}
	say(byId('shown'), shown === names.length ? '' : `${number(shown)} of ${number(names.length)}`);
}

byId('tools').addEventListener('input', choose);
byId('tools').addEventListener('submit', event => event.preventDefault());
addEventListener('resize', draw);
setInterval(() => {
	watch();
	if (byId('which').value !== 'all') choose();
	draw(); // the times count on
}, 1000);
connect();
