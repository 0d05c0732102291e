/* A file layer for tests that throws unsynced bytes away.
 *
 * Loaded with LD_PRELOAD into the process under test. Below $UNSYNCED_DIR it keeps the directory
 * $UNSYNCED_SHADOW as the disk would be after a power cut at this moment: a file's bytes get there
 * only when fsync or fdatasync of it has succeeded, and before that call returns. So: kill -9 the
 * process, put the shadow in the place of the directory, start again; what is missing was never
 * synced. Both paths must be absolute, without symbolic links, and exist.
 *
 * What a power cut may do with names is taken at its worst for data: rename, unlink, mkdir and rmdir
 * are in the shadow at once (a renamed file that was never synced is gone), or, when the process
 * makes them by system call without libc (the Rust crate rustix does), with the directory's fsync.
 * That brings every entry, files never synced as empty ones. Bytes written through mmap or
 * copy_file_range count as never written.
 *
 * While the file $UNSYNCED_FULL exists, every write below $UNSYNCED_DIR fails with ENOSPC.
 *
 * cc -shared -fPIC -O1 -o unsynced.so unsynced.c -ldl -lpthread
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* By inode: bytes written since the last sync (larger ranges than true are harmless: a sync is of
 * the whole file), and where in the shadow the last sync put it. */
#define SLOTS 65536
static struct { ino_t ino; off_t from, to; char *shadow; } dirty[SLOTS];

/* The shadow of a path below $UNSYNCED_DIR; 0 for any other path. */
static int shadow_of(const char *path, char *out) {
    const char *dir = getenv("UNSYNCED_DIR"), *shadow = getenv("UNSYNCED_SHADOW");
    size_t n;
    if (!dir || !shadow) return 0;
    n = strlen(dir);
    if (strncmp(path, dir, n) || (path[n] && path[n] != '/')) return 0;
    return snprintf(out, PATH_MAX, "%s%s", shadow, path + n) < PATH_MAX;
}

/* Absolute path of an open file; 0 when it has none (any more). */
static int path_of_fd(int fd, char *out) {
    char link[64];
    ssize_t n;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, out, PATH_MAX - 1);
    if (n <= 0 || out[0] != '/') return 0;
    out[n] = 0;
    return n < 10 || strcmp(out + n - 10, " (deleted)");
}

static int shadow_at(int fd, const char *path, char *out) {
    char base[PATH_MAX], whole[2 * PATH_MAX];
    if (path[0] == '/') return shadow_of(path, out);
    if (fd == AT_FDCWD ? !getcwd(base, sizeof base) : !path_of_fd(fd, base)) return 0;
    snprintf(whole, sizeof whole, "%s/%s", base, path);
    return strlen(whole) < PATH_MAX && shadow_of(whole, out);
}

static int slot(ino_t ino) {
    unsigned i = (unsigned)(ino * 2654435761u) % SLOTS, n;
    for (n = 0; n < SLOTS; n++, i = (i + 1) % SLOTS)
        if (dirty[i].ino == ino || !dirty[i].ino) { dirty[i].ino = ino; return (int)i; }
    fputs("unsynced.c: more files than slots\n", stderr);
    abort();
}

static int inside(int fd) {
    char path[PATH_MAX], out[PATH_MAX];
    return path_of_fd(fd, path) && shadow_of(path, out);
}

/* 1 when the write is to fail. */
static int full(int fd) {
    const char *marker = getenv("UNSYNCED_FULL");
    if (!marker || access(marker, F_OK) || !inside(fd)) return 0;
    errno = ENOSPC;
    return 1;
}

static ssize_t wrote(int fd, off_t at, ssize_t n) {
    struct stat st;
    int saved = errno, i;
    if (n > 0 && !fstat(fd, &st) && S_ISREG(st.st_mode)) {
        if (at < 0) at = lseek(fd, 0, SEEK_CUR) - n;
        pthread_mutex_lock(&lock);
        i = slot(st.st_ino);
        if (dirty[i].to == dirty[i].from) { dirty[i].from = at; dirty[i].to = at + n; }
        if (at < dirty[i].from) dirty[i].from = at;
        if (at + n > dirty[i].to) dirty[i].to = at + n;
        pthread_mutex_unlock(&lock);
    }
    errno = saved;
    return n;
}

static void copy(int from, int to, off_t at, off_t end) {
    REAL(pwrite);
    static char buffer[1 << 16];
    while (at < end) {
        ssize_t n = pread(from, buffer, end - at < (off_t)sizeof buffer ? (size_t)(end - at) : sizeof buffer, at);
        if (n <= 0) break;
        if (real(to, buffer, (size_t)n, at) != n) { perror("unsynced.c: shadow"); abort(); }
        at += n;
    }
}

/* Makes the directories of a shadow path; a synced file has a name. */
static void parents(char *path) {
    REAL(mkdir);
    char *p;
    for (p = path + strlen(getenv("UNSYNCED_SHADOW")) + 1; (p = strchr(p, '/')); *p++ = '/') {
        *p = 0;
        real(path, 0755);
    }
}

/* The real path behind a shadow path. */
static void real_of(const char *shadow, char *out) {
    snprintf(out, PATH_MAX, "%s%s", getenv("UNSYNCED_DIR"), shadow + strlen(getenv("UNSYNCED_SHADOW")));
}

/* Brings the shadow of a directory to the names that the real one has. */
static void synced_names(const char *path, const char *out) {
    char name[2 * PATH_MAX], entry[2 * PATH_MAX], old[PATH_MAX];
    DIR *dir = opendir(path);
    struct dirent *e;
    struct stat st;
    int i, to;
    while (dir && (e = readdir(dir))) {
        snprintf(entry, sizeof entry, "%s/%s", out, e->d_name);
        if (e->d_type == DT_DIR) { syscall(SYS_mkdirat, AT_FDCWD, entry, 0755); continue; }
        i = slot(e->d_ino);
        if (dirty[i].shadow && strcmp(dirty[i].shadow, entry)) {
            real_of(dirty[i].shadow, old); /* taken by another file: the inode's number was used again */
            if (lstat(old, &st) && !syscall(SYS_renameat2, AT_FDCWD, dirty[i].shadow, AT_FDCWD, entry, 0)) {
                free(dirty[i].shadow);
                dirty[i].shadow = strdup(entry);
            }
        }
        if ((to = open(entry, O_WRONLY | O_CREAT, 0644)) >= 0) close(to);
    }
    if (dir) closedir(dir);
    dir = opendir(out);
    while (dir && (e = readdir(dir))) {
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        snprintf(entry, sizeof entry, "%s/%s", out, e->d_name);
        if (e->d_type != DT_DIR && lstat(name, &st)) syscall(SYS_unlinkat, AT_FDCWD, entry, 0);
    }
    if (dir) closedir(dir);
}

/* Called after a successful sync. */
static void synced(int fd) {
    REAL(mkdir);
    char path[PATH_MAX], out[PATH_MAX], link[64];
    struct stat st, old;
    int saved = errno, i, from, to;
    if (!path_of_fd(fd, path) || !shadow_of(path, out) || fstat(fd, &st)) { errno = saved; return; }
    pthread_mutex_lock(&lock);
    parents(out);
    if (S_ISDIR(st.st_mode)) {
        real(out, 0755);
        synced_names(path, out);
    } else if (S_ISREG(st.st_mode)) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        from = open(link, O_RDONLY);
        to = open(out, O_WRONLY | O_CREAT, 0644);
        if (from < 0 || to < 0 || fstat(to, &old)) { perror("unsynced.c: sync"); abort(); }
        i = slot(st.st_ino);
        if (old.st_size == 0 || !dirty[i].shadow || strcmp(dirty[i].shadow, out)) {
            /* The first sync under this name: all of it, without the holes. */
            off_t at = 0, end;
            syscall(SYS_ftruncate, to, 0);
            while ((at = lseek(from, at, SEEK_DATA)) >= 0 && (end = lseek(from, at, SEEK_HOLE)) > at) {
                copy(from, to, at, end);
                at = end;
            }
        } else {
            copy(from, to, dirty[i].from, dirty[i].to);
        }
        dirty[i].from = dirty[i].to = 0;
        if (syscall(SYS_ftruncate, to, st.st_size)) abort();
        free(dirty[i].shadow);
        dirty[i].shadow = strdup(out);
        close(from);
        close(to);
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
}

ssize_t write(int fd, const void *b, size_t n) { REAL(write); return full(fd) ? -1 : wrote(fd, -1, real(fd, b, n)); }
ssize_t writev(int fd, const struct iovec *v, int n) { REAL(writev); return full(fd) ? -1 : wrote(fd, -1, real(fd, v, n)); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t at) { REAL(pwrite); return full(fd) ? -1 : wrote(fd, at, real(fd, b, n, at)); }
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t at) { REAL(pwrite64); return full(fd) ? -1 : wrote(fd, at, real(fd, b, n, at)); }
int fsync(int fd) { REAL(fsync); int r = real(fd); if (!r) synced(fd); return r; }
int fdatasync(int fd) { REAL(fdatasync); int r = real(fd); if (!r) synced(fd); return r; }


/* Shrinking makes what was beyond the new end unwritten bytes. */
int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    struct stat st;
    int known = !fstat(fd, &st), r = real(fd, length);
    if (!r && known && length < st.st_size) wrote(fd, length, st.st_size - length);
    return r;
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int rename(const char *from, const char *to) {
    REAL(rename);
    char a[PATH_MAX], b[PATH_MAX];
    int r = real(from, to), saved = errno;
    if (!r && shadow_at(AT_FDCWD, to, b)) {
        parents(b);
        if (!shadow_at(AT_FDCWD, from, a) || real(a, b)) remove(b);
    }
    errno = saved;
    return r;
}

int unlinkat(int fd, const char *path, int flags) {
    REAL(unlinkat);
    char out[PATH_MAX];
    int known = shadow_at(fd, path, out), r = real(fd, path, flags), saved = errno;
    if (!r && known) real(AT_FDCWD, out, flags);
    errno = saved;
    return r;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    char out[PATH_MAX];
    int r = real(path, mode), saved = errno;
    if (!r && shadow_at(AT_FDCWD, path, out)) {
        parents(out);
        real(out, mode);
    }
    errno = saved;
    return r;
}
