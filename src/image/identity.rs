//! As whom it is run: names looked up in the image's own user database.
//!
//! Docker's rules (`moby/sys/user`, `GetExecUser`): `user`, `uid`, `user:group`, `uid:gid`; a
//! name must be known, a number need not be. Without a group it is that of the user's
//! line, with all groups that list him; with one it is that alone. An AppC image names
//! user and group apart, and may mean the owner of a file.

/// Largest number of a user or group (`moby/sys/user`, `maxID`).
const ID_MAX: u32 = (1 << 31) - 1;

/// As whom an image wants to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserWish {
    /// `user`, `uid`, `user:group` ...; empty: root.
    Docker(String),
    /// Names, numbers, or paths whose owner is meant.
    Appc {
        /// The user.
        user: String,
        /// The group.
        group: String,
        /// Further groups.
        groups: Vec<u32>,
    },
}

impl Default for UserWish {
    fn default() -> Self {
        Self::Docker(String::new())
    }
}

/// As whom.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// All groups but that one, in the order of the database.
    pub groups: Vec<u32>,
    /// What the user is called, if the image knows.
    pub name: Option<String>,
    /// His directory.
    pub home: String,
    /// His shell, if the image knows.
    pub shell: Option<String>,
}

/// What an image says of users.
pub trait Database {
    /// What is in `/etc/passwd`; nothing if it is not there.
    fn passwd(&self) -> Vec<u8>;
    /// What is in `/etc/group`; nothing if it is not there.
    fn group(&self) -> Vec<u8>;
    /// User and group of a file.
    fn owner(&self, path: &str) -> Option<(u32, u32)>;
}

/// Why it is run as nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not in the image's `/etc/passwd`.
    #[error("there is no user `{0}` in the image's /etc/passwd")]
    User(String),
    /// Not in the image's `/etc/group`.
    #[error("there is no group `{0}` in the image's /etc/group")]
    Group(String),
    /// No user or group has that number.
    #[error("`{0}` is too large for a user or group (at most {ID_MAX})")]
    Number(String),
    /// Its owner would be meant.
    #[error("there is no `{0}` in the image, whose owner is to run it")]
    Path(String),
}

/// A line of `/etc/passwd`.
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

/// A line of `/etc/group`.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Lines that are not what they should be are nobody's.
fn users(text: &str) -> impl Iterator<Item = User<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let mut numbers = fields.by_ref().skip(1);
        let uid = numbers.next()?.trim().parse().ok()?;
        let gid = numbers.next()?.trim().parse().ok()?;
        Some(User {
            name,
            uid,
            gid,
            home: fields.nth(1).unwrap_or(""),
            shell: fields.next().unwrap_or(""),
        })
    })
}

fn groups(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some(Group {
            name,
            gid: fields.nth(1)?.trim().parse().ok()?,
            members: fields.next().unwrap_or(""),
        })
    })
}

/// A number, if it is one.
fn number(text: &str) -> Result<Option<u32>, IdentityError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(number) if number <= ID_MAX => Ok(Some(number)),
        _ => Err(IdentityError::Number(text.to_owned())),
    }
}

impl Identity {
    /// Whoever is wished.
    ///
    /// # Errors
    /// A name or a path that the image does not know, or a number that nobody has.
    pub fn of(wish: &UserWish, database: &dyn Database) -> Result<Self, IdentityError> {
        let passwd = String::from_utf8_lossy(&database.passwd()).into_owned();
        match wish {
            UserWish::Docker(text) => {
                let (user, group) = match text.split_once(':') {
                    Some((user, group)) => (user, group),
                    None => (text.as_str(), ""),
                };
                Self::docker(user, group, &passwd, database)
            }
            UserWish::Appc {
                user,
                group,
                groups: further,
            } => Self::appc(user, group, further, &passwd, database),
        }
    }

    fn of_line(line: &User<'_>) -> Self {
        let home = match line.home {
            "" => "/",
            home => home,
        };
        Self {
            uid: line.uid,
            gid: line.gid,
            groups: Vec::new(),
            name: Some(line.name.to_owned()),
            home: home.to_owned(),
            shell: Some(line.shell.to_owned()).filter(|shell| !shell.is_empty()),
        }
    }

    /// Numbers that the image need not know.
    #[must_use]
    pub fn numbers(uid: u32, gid: u32) -> Self {
        Self {
            uid,
            gid,
            groups: Vec::new(),
            name: None,
            home: "/".to_owned(),
            shell: None,
        }
    }

    fn docker(
        user: &str,
        group: &str,
        passwd: &str,
        database: &dyn Database,
    ) -> Result<Self, IdentityError> {
        let is = |line: &User<'_>| match user {
            "" => line.uid == 0,
            user => line.name == user || line.uid.to_string() == user,
        };
        let mut who = match (users(passwd).find(is), number(user)?) {
            (Some(line), _) => Self::of_line(&line),
            (None, Some(uid)) => Self::numbers(uid, 0),
            (None, None) if user.is_empty() => Self::numbers(0, 0),
            (None, None) => return Err(IdentityError::User(user.to_owned())),
        };
        let text = String::from_utf8_lossy(&database.group()).into_owned();
        if group.is_empty() {
            if let Some(name) = &who.name {
                let lists = |line: &Group<'_>| line.members.split(',').any(|member| member == name);
                let gids = groups(&text).filter(lists).map(|line| line.gid);
                who.groups = gids.filter(|gid| *gid != who.gid).collect();
            }
        } else {
            who.gid = group_number(group, &text)?;
        }
        Ok(who)
    }

    fn appc(
        user: &str,
        group: &str,
        further: &[u32],
        passwd: &str,
        database: &dyn Database,
    ) -> Result<Self, IdentityError> {
        let owner = |path: &str| {
            let owner = database.owner(path);
            owner.ok_or_else(|| IdentityError::Path(path.to_owned()))
        };
        let mut who = match user.starts_with('/') {
            true => {
                let uid = owner(user)?.0;
                let line = users(passwd).find(|line| line.uid == uid);
                line.map_or_else(|| Self::numbers(uid, 0), |line| Self::of_line(&line))
            }
            false => Self::docker(user, "0", passwd, database)?,
        };
        who.gid = match group.starts_with('/') {
            true => owner(group)?.1,
            false => group_number(group, &String::from_utf8_lossy(&database.group()))?,
        };
        who.groups = further.to_vec();
        Ok(who)
    }
}

fn group_number(group: &str, text: &str) -> Result<u32, IdentityError> {
    let is = |line: &Group<'_>| line.name == group || line.gid.to_string() == group;
    match (groups(text).find(is), number(group)?) {
        (Some(line), _) => Ok(line.gid),
        (None, Some(gid)) => Ok(gid),
        (None, None) => Err(IdentityError::Group(group.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files(&'static str, &'static str);

    impl Database for Files {
        fn passwd(&self) -> Vec<u8> {
            self.0.as_bytes().to_vec()
        }
        fn group(&self) -> Vec<u8> {
            self.1.as_bytes().to_vec()
        }
        fn owner(&self, path: &str) -> Option<(u32, u32)> {
            (path == "/srv").then_some((33, 34))
        }
    }

    const BOTH: Files = Files(
        "root:x:0:0:root:/root:/bin/bash\n# no line\nshort:x\n:x:9:9::/:\n\
         www:x:33:33:w:/var/www:/bin/sh\n33x:x:500:501::/home/33x:\ntwin:x:33:7::/twin:\n\
         homeless:x:40:41:::\n",
        "root:x:0:\nwww:x:33:\ndocker:x:999:www,twin\naudio:x:29:twin,www\nbad:x:no:www\n\
         members:x:50:root\n",
    );

    /// `uid:gid [groups] home`.
    fn docker(text: &str) -> String {
        match Identity::of(&UserWish::Docker(text.to_owned()), &BOTH) {
            Ok(who) => format!("{}:{} {:?} {}", who.uid, who.gid, who.groups, who.home),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn users_are_those_that_docker_would_take() {
        for (text, who) in [
            ("", "0:0 [50] /root"),
            ("root", "0:0 [50] /root"),
            ("0", "0:0 [50] /root"),
            ("www", "33:33 [999, 29] /var/www"),
            ("33", "33:33 [999, 29] /var/www"),
            ("twin", "33:7 [999, 29] /twin"),
            ("www:audio", "33:29 [] /var/www"),
            ("www:29", "33:29 [] /var/www"),
            ("www:77", "33:77 [] /var/www"),
            ("1234", "1234:0 [] /"),
            ("1234:5678", "1234:5678 [] /"),
            ("1234:audio", "1234:29 [] /"),
            (":audio", "0:29 [] /root"),
            ("33x", "500:501 [] /home/33x"),
            ("homeless", "40:41 [] /"),
            ("none", "there is no user `none` in the image's /etc/passwd"),
            (
                "www:none",
                "there is no group `none` in the image's /etc/group",
            ),
            (
                "2147483648",
                "`2147483648` is too large for a user or group (at most 2147483647)",
            ),
            (
                "99999999999999999999",
                "`99999999999999999999` is too large for a user or group (at most 2147483647)",
            ),
            ("-1", "there is no user `-1` in the image's /etc/passwd"),
        ] {
            assert_eq!(docker(text), who, "{text}");
        }
    }

    #[test]
    fn an_image_without_a_database_has_numbers() {
        let none = Files("", "");
        let of = |text: &str| Identity::of(&UserWish::Docker(text.to_owned()), &none);
        let who = of("").unwrap();
        assert_eq!((who.uid, who.gid, &*who.home), (0, 0, "/"));
        assert_eq!(of("5:6").unwrap().gid, 6);
        assert_eq!(of("root"), Err(IdentityError::User("root".to_owned())));
    }

    #[test]
    fn an_appc_image_names_user_and_group_apart() {
        let of = |user: &str, group: &str| {
            let wish = UserWish::Appc {
                user: user.to_owned(),
                group: group.to_owned(),
                groups: vec![7, 8],
            };
            match Identity::of(&wish, &BOTH) {
                Ok(who) => format!("{}:{} {:?} {}", who.uid, who.gid, who.groups, who.home),
                Err(error) => error.to_string(),
            }
        };
        for (user, group, who) in [
            ("0", "0", "0:0 [7, 8] /root"),
            ("www", "audio", "33:29 [7, 8] /var/www"),
            ("/srv", "/srv", "33:34 [7, 8] /var/www"),
            ("1000", "www", "1000:33 [7, 8] /"),
            (
                "/none",
                "0",
                "there is no `/none` in the image, whose owner is to run it",
            ),
            (
                "none",
                "0",
                "there is no user `none` in the image's /etc/passwd",
            ),
        ] {
            assert_eq!(of(user, group), who, "{user} {group}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_nobodys() {
        struct Odd;
        impl Database for Odd {
            fn passwd(&self) -> Vec<u8> {
                b"\xff\xfe:x:1:1:::\nok:x:2:3::/ok:/bin/sh\n".to_vec()
            }
            fn group(&self) -> Vec<u8> {
                vec![0xff; 64]
            }
            fn owner(&self, _: &str) -> Option<(u32, u32)> {
                None
            }
        }
        let who = Identity::of(&UserWish::Docker("ok".to_owned()), &Odd).unwrap();
        assert_eq!((who.uid, who.gid, &*who.home), (2, 3, "/ok"));
        assert_eq!(who.shell.as_deref(), Some("/bin/sh"));
    }
}
